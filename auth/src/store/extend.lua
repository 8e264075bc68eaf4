-- Moves the deadline of a client that has not registered yet. Its codes are unlocked.
--
-- KEYS  1 the client
-- ARGV  1 deadline, ms since 1970
-- Returns 'extended', 'unknown' (not provisioned), 'registered' or 'revoked'.
local deadline = argument(1, 0)
local stored = redis.call('HMGET', KEYS[1], 'otpSecret', 'secret', 'disabled')
if is_disabled(stored[3]) then
  return 'revoked'
end
if stored[2] then
  return 'registered'
end
if not stored[1] then
  return 'unknown'
end
redis.call('HSET', KEYS[1], 'regDeadline', whole(deadline))
redis.call('HDEL', KEYS[1], 'wrongCodes', 'wrongCodesUntil')
return 'extended'
