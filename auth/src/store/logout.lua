-- Ends one session.
--
-- KEYS  1 the session  2 its client's list of sessions
-- Returns 1, or 0 when it had ended before.
local ended = redis.call('DEL', KEYS[1])
if redis.call('TYPE', KEYS[2]).ok == 'zset' then
  redis.call('ZREM', KEYS[2], KEYS[1])
end
return ended
