-- Registers a client, once only, and takes its one-time code, once only.
--
-- The code was found right for `otp_secret` before; everything else is checked here, in the step
-- that writes, so of any number at a time one succeeds. Nothing is written unless it does.
--
-- `registeredAt` is now, and later than any registration of this client before: the hub goes by it. The
-- sessions of an earlier registration end.
--
-- KEYS  1 the client  2 its list of sessions
-- ARGV  1 otp_secret the code was checked with  2 its step  3 now, ms since 1970
--       4 bcrypt hash of the device's secret
-- Returns 'registered'; 'taken' when a secret is registered already; else 'refused'.
local client, otp_secret, step = KEYS[1], ARGV[1], tonumber(ARGV[2])
local now, hash = tonumber(ARGV[3]), ARGV[4]

local stored = redis.call('HMGET', client, 'otpSecret', 'regDeadline', 'secret', 'disabled', 'otpStep',
  'registeredAt')
if stored[1] ~= otp_secret or is_disabled(stored[4]) then
  return 'refused'
end
if stored[3] then
  return 'taken'
end
local deadline = tonumber(stored[2] or '')
if not deadline or deadline <= now or step <= tonumber(stored[5] or '-1') then
  return 'refused'
end

local registered_at = math.max(now, count_of(stored[6], -1) + 1)
redis.call('HSET', client, 'secret', hash, 'registeredAt', string.format('%.0f', registered_at), 'otpStep', ARGV[2],
  'regWindow', stored[2])
redis.call('HDEL', client, 'regDeadline')
end_sessions(KEYS[2])
return 'registered'
