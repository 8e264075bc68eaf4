-- Records the acknowledgement of the copy, and trims the origin. It also runs while Redis is full, since trimming
-- frees memory.
--
-- KEYS  1 state hash (out_epoch, out_mark, out_given, out_acked, out_tally, out_written)
--       2 origin stream
-- ARGV  1 epoch   2 acknowledged seq   3 the tally there
--       4 first seq that stays in the stream, or '' not to trim
--       5 '1' if the copy has acknowledged all losses in the ledger
-- Returns 1, or 0 if the state or the stream has gone back or is in another epoch: entries with these seqs may be new
--       ones.

local state, epoch, acked = KEYS[1], ARGV[1], ARGV[2]

if ARGV[4] ~= '' and not is_seq(ARGV[4]) then
  return redis.error_reply('ERR invalid seq to trim to: expected a stream ID')
end
local found, refused = reach(KEYS[2])
if refused then return refused end
local known = redis.call('HMGET', state, 'out_epoch', 'out_mark', 'out_given')
if known[1] ~= epoch or past(acked, known[2] or '0-0') or not is_same(found, known[3]) then return 0 end
redis.call('HSET', state, 'out_acked', acked, 'out_tally', ARGV[3])
if ARGV[5] == '1' then redis.call('HDEL', state, 'out_written') end
if ARGV[4] ~= '' then redis.call('XTRIM', KEYS[2], 'MINID', ARGV[4]) end
return 1
