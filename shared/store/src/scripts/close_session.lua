-- Closes a session of a client at the hub, unless a newer one has been opened.
--
-- KEYS  1 client hash
-- ARGV  1 generation   2 now in ms
-- Returns 1 if it was the newest.

if redis.call('HGET', KEYS[1], 'generation') ~= ARGV[1] then return 0 end
redis.call('HDEL', KEYS[1], 'connected_since', 'hub')
redis.call('HSET', KEYS[1], 'last_seen', ARGV[2])
return 1
