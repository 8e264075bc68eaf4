-- Checks that entries can be added to streams: each key is a stream with IDs left, or missing.
--
-- KEYS  streams
-- Returns 1, or an error with the key

local LAST = '18446744073709551615-18446744073709551615'

for _, key in ipairs(KEYS) do
  if not is_type(key, 'stream') then
    return redis.error_reply('WRONGTYPE ' .. key .. ' must be a stream')
  end
  local info = redis.pcall('XINFO', 'STREAM', key)
  for at = 1, #info, 2 do
    if info[at] == 'last-generated-id' and info[at + 1] == LAST then return exhausted(key) end
  end
end
return 1
