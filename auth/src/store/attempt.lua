-- Reads a client for a registration and counts the attempt as wrong, until forgive.lua takes that back. So
-- concurrent attempts, at any number of auth processes, stay within the bound.
--
-- Wrong codes and proofs count for one deadline: a new deadline starts at 0. At the bound the client's codes
-- are locked, and further attempts are not counted. The bound is lower while there are too many wrong ones
-- for all clients together.
--
-- KEYS  1 the client  2 the count for all clients
-- ARGV  1 now, ms since 1970  2 bound for a client  3 bound for all clients
--       4 bound for a client while 3 is reached  5 window of the count for all, ms  6... the fields to read
-- Returns {whether the client exists, its fields, state, count, count for all}; state is 'counted', 'last'
-- (counted, and at the bound), 'locked', or 'closed' if the client cannot register.
local now, wrong_max = argument(1, 0), argument(2, 1)
local all_max, few, all_window = argument(3, 1), argument(4, 1), argument(5, 1)
local fields = redis.call('HMGET', KEYS[1], unpack(ARGV, 6))
local stored = redis.call('HMGET', KEYS[1], 'otpSecret', 'regDeadline', 'secret', 'disabled',
  'wrongCodes', 'wrongCodesUntil')
local is_there = redis.call('EXISTS', KEYS[1])

if not stored[1] or count_of(stored[2], 0) <= now or stored[3] or is_disabled(stored[4]) then
  return {is_there, fields, 'closed', 0, 0}
end
local all = count_of(redis.call('GET', KEYS[2]), 0)
local bound = all >= all_max and math.min(few, wrong_max) or wrong_max
local wrong = 0
if stored[6] == stored[2] then
  wrong = count_of(stored[5], bound)
end
if wrong >= bound then
  return {is_there, fields, 'locked', wrong, all}
end
check_expiry(all_window)

wrong, all = wrong + 1, all + 1
redis.call('HSET', KEYS[1], 'wrongCodes', whole(wrong), 'wrongCodesUntil', stored[2])
if all == 1 then
  redis.call('SET', KEYS[2], '1', 'PX', whole(all_window))
else
  redis.call('SET', KEYS[2], whole(all), 'KEEPTTL')
end
return {is_there, fields, wrong == bound and 'last' or 'counted', wrong, all}
