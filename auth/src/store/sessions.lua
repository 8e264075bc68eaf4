-- What auth's scripts share; it stands in front of each of them, behind client_registration.lua.
--
-- Each script reads and checks all that can fail before its first write, since nothing is rolled back. The
-- first write is one that Redis refuses when it is full: once a script has written, Redis refuses no more.
--
-- A client's sessions are listed in a sorted set: member, the session's key; score, when it ends, in
-- ms of Redis' own clock, the one that also ends the sessions. So whoever revokes a client finds
-- them all. These keys are made by name within the scripts' own arguments and not by the scripts.

-- A whole number from `least` to COUNT_MAX out of the arguments; ends the script if it is none.
local function argument(at, least)
  local number = count_of(ARGV[at], -1)
  if number < least then
    error({err = 'ERR argument ' .. at .. ' is no whole number from ' .. least})
  end
  return number
end

local function whole(number)
  return string.format('%.0f', number)
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The keys of all sessions listed. A key of another type lists none, and is replaced.
local function sessions_of(list)
  if redis.call('TYPE', list).ok ~= 'zset' then
    return {}
  end
  return redis.call('ZRANGE', list, 0, -1)
end

-- Fails, before anything is written, where Redis would not take an expiry so far ahead.
local function check_expiry(ttl_ms)
  if now_ms() + ttl_ms > COUNT_MAX then
    error({err = 'ERR nothing is kept for ' .. whole(ttl_ms) .. ' ms'})
  end
end

-- Fails, before anything is written, where `open_session` would.
local function check_session(session, ttl_ms)
  redis.call('HLEN', session)
  check_expiry(ttl_ms)
end

-- Opens a session of the registration `registered_at` (false for none) and of `login`, the key of the
-- session that the login opened; one more than a client may have ends the oldest.
local function open_session(session, list, client, registered_at, login, ttl_ms, sessions_max)
  local now = now_ms()
  redis.call('HSET', session, 'client', client, 'issuedAt', whole(now), 'login', login)
  if registered_at then
    redis.call('HSET', session, 'registeredAt', registered_at)
  end
  redis.call('PEXPIRE', session, whole(ttl_ms))
  if redis.call('TYPE', list).ok ~= 'zset' then
    redis.call('DEL', list)
  end
  redis.call('ZREMRANGEBYSCORE', list, '-inf', whole(now))
  while redis.call('ZCARD', list) >= sessions_max do
    redis.call('DEL', redis.call('ZPOPMIN', list)[1])
  end
  redis.call('ZADD', list, whole(now + ttl_ms), session)
  redis.call('PEXPIRE', list, whole(math.max(ttl_ms, redis.call('PTTL', list))))
end

-- Leaves a session that was refreshed `grace_ms` more at most, and writes down which one follows it: a
-- connection that was made with it lives on with that.
local function supersede(session, list, next, grace_ms)
  if redis.call('EXISTS', session) == 0 then
    return
  end
  redis.call('HSET', session, 'next', next)
  if redis.call('PTTL', session) > grace_ms then
    redis.call('PEXPIRE', session, whole(grace_ms))
    redis.call('ZADD', list, 'XX', whole(now_ms() + grace_ms), session)
  end
end

-- Ends these sessions and says how many there were. The hub watches the keys and closes their
-- connections.
local function end_sessions(list, sessions)
  local ended = 0
  for _, session in ipairs(sessions) do
    ended = ended + redis.call('DEL', session)
  end
  redis.call('DEL', list)
  return ended
end

