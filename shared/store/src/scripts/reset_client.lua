-- Resets the cursor of a client: its next batch is of a new epoch.
--
-- KEYS  1 client hash
-- Returns the new epoch of the copy, or 0 if there is no cursor of this client.

local epoch = count(redis.call('HGET', KEYS[1], 'in_epoch'))
if epoch == 0 then return 0 end
redis.call('HSET', KEYS[1], 'in_epoch', digits(epoch + 1), 'in_seq', '0-0')
redis.call('HDEL', KEYS[1], 'in_digest', 'in_seal', 'in_tally', 'up_epoch')
return epoch + 1
