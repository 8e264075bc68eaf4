-- What the other scripts share; it stands in front of each of them.
--
-- A client's sessions are listed in a sorted set: member, the session's key; score, when it ends, in
-- ms of Redis' own clock, the one that also ends the sessions. So whoever revokes a client finds
-- them all. These keys are made by name within the scripts' own arguments and not by the scripts.

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Opens a session of the registration `registered_at` (false for none); one more than a client may have
-- ends the oldest.
local function open_session(session, list, client, registered_at, ttl_ms, sessions_max)
  local now = now_ms()
  redis.call('ZREMRANGEBYSCORE', list, '-inf', now)
  while redis.call('ZCARD', list) >= sessions_max do
    redis.call('DEL', redis.call('ZPOPMIN', list)[1])
  end
  redis.call('HSET', session, 'client', client, 'issuedAt', string.format('%.0f', now))
  if registered_at then
    redis.call('HSET', session, 'registeredAt', registered_at)
  end
  redis.call('PEXPIRE', session, ttl_ms)
  redis.call('ZADD', list, now + ttl_ms, session)
  redis.call('PEXPIRE', list, math.max(ttl_ms, redis.call('PTTL', list)))
end

-- Ends all sessions and says how many there were. The hub watches the keys and closes their
-- connections.
local function end_sessions(list)
  local ended = 0
  for _, session in ipairs(redis.call('ZRANGE', list, 0, -1)) do
    ended = ended + redis.call('DEL', session)
  end
  redis.call('DEL', list)
  return ended
end

