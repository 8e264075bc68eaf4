-- Begins a new life of an origin stream, or adopts the one that the copy knows.
--
-- KEYS  1 state hash (out_epoch, out_start, out_acked)   2 origin stream
-- ARGV  1 epoch   2 seq after which this life begins   3 seq behind which new IDs must come, or ''
-- Gives 1, or 0 if the stream is in that life or a newer one already.

local state, stream, epoch, floor = KEYS[1], KEYS[2], ARGV[1], ARGV[3]

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
redis.call('HSET', state, 'out_epoch', epoch, 'out_start', ARGV[2], 'out_acked', ARGV[2])
return 1
