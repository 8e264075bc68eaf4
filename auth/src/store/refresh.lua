-- Opens a new session for the holder of a live one. The old session stays for a while, in case the response
-- is lost; so does a session that a lost response opened.
--
-- KEYS  1 the client  2 the new session  3 the client's list of sessions  4 the live session  5... the listed
--       sessions
-- ARGV  1 the client's name  2 the session's life in ms  3 maximum of sessions of a client
--       4 how long the old one stays, in ms
-- Returns 1, or 0 if the session has ended or the client was revoked, or the listed sessions.
local ttl_ms, sessions_max, grace_ms = argument(2, 1), argument(3, 1), argument(4, 1)
local stored = redis.call('HMGET', KEYS[1], 'secret', 'disabled', 'registeredAt')
local live = redis.call('HMGET', KEYS[4], 'client', 'registeredAt', 'login', 'next')
if live[1] ~= ARGV[1] or not stored[1] or is_disabled(stored[2])
  or count_of(live[2], 0) < count_of(stored[3], 0) then
  return 0
end
check_session(KEYS[2], ttl_ms)
local sessions, are_declared = sessions_of(KEYS[3])
if not are_declared then
  return sessions
end
-- A session that is not listed has ended.
local former
for _, session in ipairs(sessions) do
  if session == live[4] then
    redis.call('HLEN', session)
    former = session
  end
end

open_session(KEYS[2], KEYS[3], ARGV[1], live[2], live[3] or KEYS[4], ttl_ms, sessions_max)
supersede(KEYS[4], KEYS[3], KEYS[2], grace_ms)
if former then
  supersede(former, KEYS[3], KEYS[2], grace_ms)
end
return 1
