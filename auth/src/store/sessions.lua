-- The shared part of auth's scripts; it precedes each of them, after client_registration.lua.
--
-- Each script makes all reads and checks that can fail before its first write, since Redis rolls nothing back.
-- The first write is one that a full Redis refuses: after it, Redis refuses no write of the script.
--
-- A client's sessions are listed in a sorted set: member, the session's key; score, its end in ms of Redis'
-- own clock, which also expires the sessions. So a revocation finds them all. A script that may end them has them all
-- among its KEYS, since a Redis Cluster requires that: if the list has another one, the script changes nothing and
-- returns the list, and the caller repeats the call with it.

-- Returns an argument as a whole number from `least` to COUNT_MAX; ends the script if it is not one.
local function argument(at, least)
  local number = count_of(ARGV[at], -1)
  if number < least then
    error({err = 'ERR argument ' .. at .. ' is not a whole number from ' .. least})
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

-- Returns the keys of all listed sessions, and whether all of them are among the KEYS. A key of another type lists none,
-- and is replaced.
local function sessions_of(list)
  if redis.call('TYPE', list).ok ~= 'zset' then
    return {}, true
  end
  local declared = {}
  for _, key in ipairs(KEYS) do
    declared[key] = true
  end
  local sessions = redis.call('ZRANGE', list, 0, -1)
  for _, session in ipairs(sessions) do
    if not declared[session] then
      return sessions, false
    end
  end
  return sessions, true
end

-- Fails, before the first write, if Redis would refuse an expiry this far ahead.
local function check_expiry(ttl_ms)
  if now_ms() + ttl_ms > COUNT_MAX then
    error({err = 'ERR expiry of ' .. whole(ttl_ms) .. ' ms is too far ahead'})
  end
end

-- Fails, before the first write, if `open_session` would.
local function check_session(session, ttl_ms)
  redis.call('HLEN', session)
  check_expiry(ttl_ms)
end

-- Opens a session of the registration `registered_at` (false for none) and of `login`, the key of the
-- session that the login opened. A session above the maximum ends the oldest.
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

-- Ends a refreshed session after `grace_ms` at most, and stores its successor: a connection that was opened
-- with the session goes on with the successor.
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

-- Ends these sessions and returns their number. The hub watches the keys and closes their connections.
local function end_sessions(list, sessions)
  local ended = 0
  for _, session in ipairs(sessions) do
    ended = ended + redis.call('DEL', session)
  end
  redis.call('DEL', list)
  return ended
end

