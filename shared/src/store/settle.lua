-- Begins a new life of an origin stream, or adopts the one that the copy knows; also where Redis is
-- full, since nothing is carried and trimmed before.
--
-- KEYS  1 state hash   2 origin stream   3 loss ledger
-- ARGV  1 epoch   2 seq behind which new IDs must come, or ''
--       3 number of arguments that follow for the hash: field, value, ...
--       then the arguments for one line of the ledger: field, value, ...; none for no line
-- Gives 1, or 0 if the stream is in that life or a newer one already.

local state, stream, ledger, epoch, floor = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]

if not is_type(stream, 'stream') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. stream .. ' and ' .. ledger .. ' must be streams')
end
if count(redis.call('HGET', state, 'out_epoch')) >= tonumber(epoch) then return 0 end
local fields = 3 + count(ARGV[3])
local memory = { unpack(ARGV, 4, fields) }
if #memory == 0 or #memory % 2 ~= 0 then return redis.error_reply('ERR fields and values in pairs') end

if ARGV[fields + 1] then
  local line = redis.pcall('XADD', ledger, '*', unpack(ARGV, fields + 1))
  if type(line) == 'table' then return line end
end
if floor ~= '' then
  if redis.call('EXISTS', stream) == 0 then
    -- The only way to make an empty stream.
    redis.call('XGROUP', 'CREATE', stream, 'spoke', '$', 'MKSTREAM')
    redis.call('XGROUP', 'DESTROY', stream, 'spoke')
  end
  -- An error says that its IDs are past the floor already.
  redis.pcall('XSETID', stream, floor)
end
redis.call('HDEL', state, 'out_written', 'dead_epoch', 'dead_seq')
redis.call('HSET', state, 'out_epoch', epoch, unpack(memory))
return 1
