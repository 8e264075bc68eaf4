-- The last ID that a stream has given out, without the entries that XINFO would bring along.
--
-- KEYS  1 stream
-- Gives the ID, or '0-0' if there is no such stream.

local info = redis.pcall('XINFO', 'STREAM', KEYS[1])
if info['err'] then
  if string.find(info['err'], 'no such key', 1, true) then return '0-0' end
  return info
end
for at = 1, #info, 2 do
  if info[at] == 'last-generated-id' then return info[at + 1] end
end
return redis.error_reply('ERR XINFO STREAM tells no last-generated-id')
