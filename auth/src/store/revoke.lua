-- Revokes a client: it can neither register nor log in nor refresh, and its sessions end.
--
-- KEYS  1 the client  2 its list of sessions  3... the listed sessions
-- Returns the number of ended sessions, or -1 for an unknown client, or the listed sessions.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return -1
end
redis.call('HLEN', KEYS[1])
local sessions, are_declared = sessions_of(KEYS[2])
if not are_declared then
  return sessions
end

redis.call('HSET', KEYS[1], 'disabled', '1')
redis.call('HDEL', KEYS[1], 'secret', 'secretTag', 'regDeadline', 'regWindow', 'nextSecret',
  'nextTag', 'wrongCodes', 'wrongCodesUntil')
return end_sessions(KEYS[2], sessions)
