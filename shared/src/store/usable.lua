#!lua flags=no-writes
-- Looks whether streams can be added to: each key holds a stream or nothing, and has IDs left to give.
--
-- KEYS  streams
-- Gives 1, or an error that names the key

local LAST = '18446744073709551615-18446744073709551615'

for _, key in ipairs(KEYS) do
  local found = redis.call('TYPE', key)['ok']
  if found == 'stream' then
    local info = redis.call('XINFO', 'STREAM', key)
    for at = 1, #info, 2 do
      if info[at] == 'last-generated-id' and info[at + 1] == LAST then
        return redis.error_reply('EXHAUSTED ' .. key .. ' has given out the highest ID that there is')
      end
    end
  elseif found ~= 'none' then
    return redis.error_reply('WRONGTYPE ' .. key .. ' is a ' .. found .. ' and has to be a stream')
  end
end
return 1
