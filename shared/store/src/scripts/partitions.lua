-- Records the partitions of a fleet once.
--
-- KEYS  1 the record
-- ARGV  1 their number, 2 their hash tags
-- Returns the number that is recorded.

local call = redis.call
if call('EXISTS', KEYS[1]) == 0 then
  call('HSET', KEYS[1], 'count', ARGV[1], 'tags', ARGV[2])
end
return call('HGET', KEYS[1], 'count')
