-- Begins a new epoch of an origin stream, or adopts that of the copy, or updates fields of the current one.
-- It also runs while Redis is full, since nothing is carried and trimmed before it.
--
-- KEYS  1 state hash   2 origin stream   3 loss ledger
-- ARGV  1 epoch   2 seq after which new IDs must be generated, or ''
--       3 the delivered seq in an epoch that begins, or '' if none begins
--       4 number of entries added up to there, or '' if it is unknown
--       5 number of arguments that follow for the hash: field, value, ...
--       then the arguments for one line of the ledger: field, value, ...; none for no line
-- Returns 1, or 0 if another process has begun another epoch.

local state, stream, ledger, epoch, floor, delivered =
  KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]

if not is_type(stream, 'stream') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. stream .. ' and ' .. ledger .. ' must be streams')
end
local known = count(redis.call('HGET', state, 'out_epoch'))
local fields = 5 + count(ARGV[5])
local memory = { unpack(ARGV, 6, fields) }
if #memory == 0 or #memory % 2 ~= 0 then return redis.error_reply('ERR invalid fields: expected pairs of field and value') end
if delivered == '' then
  if known ~= tonumber(epoch) then return 0 end
  redis.call('HSET', state, unpack(memory))
  return 1
end
if not is_seq(delivered) then return redis.error_reply('ERR invalid delivered seq: expected a stream ID') end
if known >= tonumber(epoch) then return 0 end

if ARGV[fields + 1] then
  local line = redis.pcall('XADD', ledger, '*', unpack(ARGV, fields + 1))
  if type(line) == 'table' then return unadded(ledger, line) end
end
local is_there = redis.call('EXISTS', stream) == 1
if is_there or floor ~= '' then
  -- MKSTREAM creates a missing stream, for the floor. An error says that the group exists already.
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, delivered, 'MKSTREAM')
  local place = ARGV[4] ~= '' and { delivered, 'ENTRIESREAD', digits(count(ARGV[4])) } or { delivered }
  redis.call('XGROUP', 'SETID', stream, GROUP, unpack(place))
  redis.call('HSET', state, 'out_given', delivered)
  -- An error says that the last ID is past the floor already.
  if floor ~= '' then redis.pcall('XSETID', stream, floor) end
else
  redis.call('HDEL', state, 'out_given')
end
redis.call('HDEL', state, 'out_written', 'dead_epoch', 'dead_seq')
redis.call('HSET', state, 'out_epoch', epoch, unpack(memory))
return 1
