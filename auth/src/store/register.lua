-- Registers a client, once only, and accepts its one-time code or proof, once only.
--
-- The caller has checked the code against `otp_secret`; everything else is checked here, in the step that
-- writes. So one of several concurrent registrations succeeds, and the others write nothing.
--
-- `registeredAt` is now, and later than all earlier registrations of this client: the hub compares it. The
-- sessions of an earlier registration end.
--
-- KEYS  1 the client  2 its list of sessions  3... the listed sessions
-- ARGV  1 otp_secret the code was checked with  2 its step  3 now, ms since 1970
--       4 bcrypt hash of the device's secret  5 its tag
-- Returns 'registered'; 'taken' if a secret is registered already; the listed sessions; else 'refused'.
local client, otp_secret, step = KEYS[1], ARGV[1], argument(2, 0)
local now, hash, tag = argument(3, 0), ARGV[4], ARGV[5]

local stored = redis.call('HMGET', client, 'otpSecret', 'regDeadline', 'secret', 'disabled', 'otpStep',
  'registeredAt')
if stored[1] ~= otp_secret or is_disabled(stored[4]) then
  return 'refused'
end
if stored[3] then
  return 'taken'
end
if count_of(stored[2], 0) <= now or step <= count_of(stored[5], -1) then
  return 'refused'
end
local registered_at = math.max(now, count_of(stored[6], -1) + 1)
if registered_at > COUNT_MAX then
  return redis.error_reply('ERR registeredAt of ' .. client .. ' cannot grow; set it to 0 by hand')
end
local sessions, are_declared = sessions_of(KEYS[2])
if not are_declared then
  return sessions
end

redis.call('HSET', client, 'secret', hash, 'secretTag', tag, 'registeredAt', whole(registered_at),
  'otpStep', whole(step), 'regWindow', stored[2])
redis.call('HDEL', client, 'regDeadline', 'wrongCodes', 'wrongCodesUntil', 'nextSecret', 'nextTag')
end_sessions(KEYS[2], sessions)
return 'registered'
