-- Records the partitions of a fleet once.
--
-- KEYS  1 the record
-- ARGV  1 their number, 2 their hash tags, 3 the identity of the hub, if the fleet is new
-- Returns the number that is recorded, and the identity unless all partitions have it.

local call = redis.call
if call('EXISTS', KEYS[1]) == 0 then
  call('HSET', KEYS[1], 'count', ARGV[1], 'tags', ARGV[2], 'identity', ARGV[3])
end
return call('HMGET', KEYS[1], 'count', 'identity')
