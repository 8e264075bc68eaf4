-- Opens a session for a client whose secret is right, if that is still one of its secrets. The first login
-- with the next secret makes it the only one, and ends the sessions of the former one.
--
-- KEYS  1 the client  2 the new session  3 the client's list of sessions  4... the listed sessions
-- ARGV  1 the bcrypt hash compared with  2 the client's name  3 the session's life in ms
--       4 maximum of sessions of a client  5 the tag of the secret
-- Returns 1, or 0 if the client was revoked or provisioned again in between, or the listed sessions.
local ttl_ms, sessions_max = argument(3, 1), argument(4, 1)
local stored =
  redis.call('HMGET', KEYS[1], 'secret', 'disabled', 'nextSecret', 'registeredAt', 'secretTag')
if is_disabled(stored[2]) or not stored[1] then
  return 0
end
local is_present = stored[1] == ARGV[1]
if not is_present and stored[3] ~= ARGV[1] then
  return 0
end
check_session(KEYS[2], ttl_ms)
local sessions, are_declared = sessions_of(KEYS[3])
if not are_declared then
  return sessions
end

if not is_present then
  redis.call('HSET', KEYS[1], 'secret', ARGV[1], 'secretTag', ARGV[5])
  redis.call('HDEL', KEYS[1], 'nextSecret', 'nextTag')
  end_sessions(KEYS[3], sessions)
elseif stored[5] ~= ARGV[5] then
  redis.call('HSET', KEYS[1], 'secretTag', ARGV[5])
end
open_session(KEYS[2], KEYS[3], ARGV[2], stored[4], KEYS[2], ttl_ms, sessions_max)
return 1
