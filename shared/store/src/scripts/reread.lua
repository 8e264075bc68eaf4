-- Reads fields of a hash to be told to somebody who takes them for kept.
--
-- KEYS  1 hash
-- ARGV  names of fields; the first is there if any is
-- Gives their values.

local values = redis.call('HMGET', KEYS[1], unpack(ARGV))
-- A write that changes nothing: what waits behind this script covers what was read only by way of a
-- write of its own.
if values[1] then redis.call('HSET', KEYS[1], ARGV[1], values[1]) end
return values
