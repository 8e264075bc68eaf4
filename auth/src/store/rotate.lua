-- Stores the next secret of a client. The current one stays valid until the client logs in with the next one.
-- It replaces a next secret that was stored before and not used.
--
-- KEYS  1 the client
-- ARGV  1 the bcrypt hash that the current secret was compared with  2 the hash of the next one  3 its tag
-- Returns 1, or 0 if 1 is no longer the client's hash, or the client is revoked.
local stored = redis.call('HMGET', KEYS[1], 'secret', 'disabled')
if stored[1] ~= ARGV[1] or is_disabled(stored[2]) then
  return 0
end
redis.call('HSET', KEYS[1], 'nextSecret', ARGV[2], 'nextTag', ARGV[3])
return 1
