-- Ends a session, and all others of the same login, which it was refreshed from or into.
--
-- KEYS  1 the session  2 its client's list of sessions  3... the listed sessions
-- Returns 1, or 0 if it had ended before, or the listed sessions.
local sessions, are_declared = sessions_of(KEYS[2])
if not are_declared then
  return sessions
end
local login = redis.call('HGET', KEYS[1], 'login') or KEYS[1]
local of_login = {}
for _, session in ipairs(sessions) do
  local found = redis.pcall('HGET', session, 'login')
  if session == login or found == login then
    of_login[#of_login + 1] = session
  end
end

local ended = redis.call('DEL', KEYS[1])
for _, session in ipairs(of_login) do
  redis.call('DEL', session)
  redis.call('ZREM', KEYS[2], session)
end
if redis.call('TYPE', KEYS[2]).ok == 'zset' then
  redis.call('ZREM', KEYS[2], KEYS[1])
end
return ended
