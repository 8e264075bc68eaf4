-- Begins a session of a client at the hub: the newest generation wins.
--
-- KEYS  1 client hash
-- ARGV  1 now in ms   2 the agent's version   3 its address   4 the hub's name
-- Gives the new generation.

local generation = redis.call('HINCRBY', KEYS[1], 'generation', 1)
redis.call('HSET', KEYS[1], 'connected_since', ARGV[1], 'last_seen', ARGV[1],
  'agent_version', ARGV[2], 'address', ARGV[3], 'hub', ARGV[4])
return generation
