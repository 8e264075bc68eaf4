-- Gives a client an OTP secret and a deadline to register by; a known client only with 'again', and then its
-- former secret is void. `registeredAt` stays: the next registration must be later.
--
-- KEYS  1 the client  2 its list of sessions  3... the listed sessions
-- ARGV  1 otp secret  2 deadline, ms since 1970  3 'new' or 'again'
-- Returns the number of ended sessions, or -1 if the client is known and 3 is not 'again', or the listed sessions.
local deadline = argument(2, 0)
if ARGV[3] ~= 'again' and redis.call('EXISTS', KEYS[1]) == 1 then
  return -1
end
redis.call('HLEN', KEYS[1])
local sessions, are_declared = sessions_of(KEYS[2])
if not are_declared then
  return sessions
end

redis.call('HSET', KEYS[1], 'otpSecret', ARGV[1], 'regDeadline', whole(deadline))
redis.call('HDEL', KEYS[1], 'secret', 'secretTag', 'disabled', 'otpStep', 'regWindow',
  'nextSecret', 'nextTag', 'wrongCodes', 'wrongCodesUntil')
return end_sessions(KEYS[2], sessions)
