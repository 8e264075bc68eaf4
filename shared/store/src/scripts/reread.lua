-- Reads fields of a hash whose values must have reached the acknowledgement level.
--
-- KEYS  1 hash
-- ARGV  names of fields; the first exists if any does
-- Returns their values.

local values = redis.call('HMGET', KEYS[1], unpack(ARGV))
-- A write that changes nothing: the barrier after this script covers the values only after a write.
if values[1] then redis.call('HSET', KEYS[1], ARGV[1], values[1]) end
return values
