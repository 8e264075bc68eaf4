-- Reads the extent of an origin stream and the sender's state, in one step.
--
-- KEYS  1 origin stream   2 state hash
-- ARGV  the fields of the hash
-- Returns {{first, last, deleted, length, added, position of the group or ''}, the values}

local found, refused = reach(KEYS[1])
if refused then return refused end
return { found, redis.call('HMGET', KEYS[2], unpack(ARGV)) }
