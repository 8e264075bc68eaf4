-- Opens a new session for the holder of a live one. The old one stays until its own end, so that
-- an answer that gets lost costs nothing.
--
-- KEYS  1 the client  2 the new session  3 the client's list of sessions  4 the live session
-- ARGV  1 the client's name  2 the session's life in ms  3 sessions that a client may have
-- Returns 1, or 0 when the session has ended or the client may not come any more.
local ttl_ms, sessions_max = argument(2, 1), argument(3, 1)
local stored = redis.call('HMGET', KEYS[1], 'secret', 'disabled', 'registeredAt')
local live = redis.call('HMGET', KEYS[4], 'client', 'registeredAt')
if live[1] ~= ARGV[1] or not stored[1] or is_disabled(stored[2])
  or count_of(live[2], 0) < count_of(stored[3], 0) then
  return 0
end
check_session(KEYS[2], ttl_ms)

open_session(KEYS[2], KEYS[3], ARGV[1], live[2], ttl_ms, sessions_max)
return 1
