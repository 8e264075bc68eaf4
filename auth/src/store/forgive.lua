-- Takes back the wrong code that attempt.lua counted, since the code or proof was right.
--
-- KEYS  1 the client  2 the count for all clients
-- ARGV  1 the deadline it was counted for
-- Returns 1, or 0 if none is counted for that deadline.
local stored = redis.call('HMGET', KEYS[1], 'wrongCodes', 'wrongCodesUntil')
local wrong, all = count_of(stored[1], 0), count_of(redis.call('GET', KEYS[2]), 0)
if stored[2] ~= ARGV[1] or wrong == 0 then
  return 0
end
redis.call('HSET', KEYS[1], 'wrongCodes', whole(wrong - 1))
if all > 0 then
  redis.call('SET', KEYS[2], whole(all - 1), 'KEEPTTL')
end
return 1
