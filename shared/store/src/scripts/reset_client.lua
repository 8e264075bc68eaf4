-- Resets the cursor of a client: its next batch is of a new epoch.
--
-- KEYS  1 client hash
-- Returns the new epoch of the copy, or 0 if there is no cursor of this client.

local text = redis.call('HGET', KEYS[1], 'in')
local epoch, _, added, at = parse_state(text)
-- Another text: only its epoch matters.
if not epoch then epoch, added, at = count(string.match(text, '^%d+')), 0, 0 end
if epoch == 0 then return 0 end
redis.call('HSET', KEYS[1], 'in', reset_text(epoch + 1, added, at))
redis.call('HDEL', KEYS[1], 'up_epoch')
return epoch + 1
