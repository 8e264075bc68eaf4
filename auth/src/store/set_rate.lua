-- Sets the rate of a client at the hub, or removes it. A revocation and a new registration keep it.
--
-- KEYS  1 the client
-- ARGV  1 the rate as text, or '' for that of the hub's settings
-- Returns 1, or 0 for an unknown client.
if redis.call('EXISTS', KEYS[1]) == 0 then
  return 0
end
if ARGV[1] == '' then
  redis.call('HDEL', KEYS[1], 'rate')
else
  redis.call('HSET', KEYS[1], 'rate', ARGV[1])
end
return 1
