-- Finds the client of a live session. A session ends with its registration: if its client has no secret, is
-- disabled, or has registered another secret since.
--
-- KEYS  1 the session   2 the client
-- ARGV  1 the client's name
-- Returns the registration of the session in ms since 1970 (0 without one), the key of the session that it was
-- refreshed into (false for none) and the client's rate (false for none); or nil, also if the session is another
-- client's.
local session = redis.call('HMGET', KEYS[1], 'client', 'registeredAt', 'next')
if session[1] ~= ARGV[1] then
  return false
end
local stored = redis.call('HMGET', KEYS[2], 'secret', 'disabled', 'registeredAt', 'rate')
local registered_at = count_of(session[2], 0)
if not stored[1] or is_disabled(stored[2]) or registered_at < count_of(stored[3], 0) then
  return false
end
return {registered_at, session[3], stored[4]}
