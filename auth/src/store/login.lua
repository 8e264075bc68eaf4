-- Opens a session for a client whose secret was found right, if that is still one of its secrets. The
-- first login with the next one makes it the only one, and what was open with the old one ends.
--
-- KEYS  1 the client  2 the new session  3 the client's list of sessions
-- ARGV  1 the bcrypt hash compared with  2 the client's name  3 the session's life in ms
--       4 sessions that a client may have
-- Returns 1, or 0 when the client was revoked or provisioned again meanwhile.
local stored = redis.call('HMGET', KEYS[1], 'secret', 'disabled', 'nextSecret', 'registeredAt')
if is_disabled(stored[2]) then
  return 0
end
if stored[1] ~= ARGV[1] then
  if not stored[1] or stored[3] ~= ARGV[1] then
    return 0
  end
  redis.call('HSET', KEYS[1], 'secret', ARGV[1])
  redis.call('HDEL', KEYS[1], 'nextSecret', 'nextTag')
  end_sessions(KEYS[3])
end
open_session(KEYS[2], KEYS[3], ARGV[2], stored[4], tonumber(ARGV[3]), tonumber(ARGV[4]))
return 1
