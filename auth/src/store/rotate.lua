-- Takes down the secret that a client wants to have next. The present one stays good until the client
-- logs in with this one. Another that was taken down before and not used is forgotten.
--
-- KEYS  1 the client
-- ARGV  1 the bcrypt hash that the present secret was compared with  2 that of the next one  3 its tag
-- Returns 1, or 0 when that is not the client's secret any more, or it is revoked.
local stored = redis.call('HMGET', KEYS[1], 'secret', 'disabled')
if stored[1] ~= ARGV[1] or is_disabled(stored[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'nextSecret', ARGV[2], 'nextTag', ARGV[3])
return 1
