-- Begins the way up of a client anew: what it sends next is another life of its stream.
--
-- KEYS  1 client hash
-- Gives the epoch that the copy is in then, or 0 if there is nothing of this client.

local epoch = count(redis.call('HGET', KEYS[1], 'in_epoch'))
if epoch == 0 then return 0 end
redis.call('HSET', KEYS[1], 'in_epoch', digits(epoch + 1), 'in_seq', '0-0')
redis.call('HDEL', KEYS[1], 'in_digest', 'in_seal', 'in_tally', 'up_epoch')
return epoch + 1
