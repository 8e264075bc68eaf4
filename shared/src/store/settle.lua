#!lua flags=allow-oom
-- Begins a new life of an origin stream, or adopts the one that the copy knows; also where Redis is
-- full, since nothing is carried and trimmed before.
--
-- KEYS  1 state hash   2 origin stream   3 loss ledger
-- ARGV  1 epoch   2 seq behind which new IDs must come, or ''
--       3 number of arguments that follow for the hash: field, value, ...
--       then the arguments for one line of the ledger: field, value, ...; none for no line
-- Gives 1, or 0 if the stream is in that life or a newer one already.

local state, stream, ledger, epoch, floor = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]

if tonumber(redis.call('HGET', state, 'out_epoch') or 0) >= tonumber(epoch) then return 0 end

if floor ~= '' then
  if redis.call('EXISTS', stream) == 0 then
    -- The only way to make an empty stream.
    redis.call('XGROUP', 'CREATE', stream, 'spoke', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', stream, 'spoke')
  end
  -- An error says that its IDs are past the floor already.
  redis.pcall('XSETID', stream, floor)
end
local fields = 3 + tonumber(ARGV[3])
if ARGV[fields + 1] then redis.call('XADD', ledger, '*', unpack(ARGV, fields + 1)) end
redis.call('HDEL', state, 'out_written', 'dead_epoch', 'dead_seq')
redis.call('HSET', state, 'out_epoch', epoch, unpack(ARGV, 4, fields))
return 1
