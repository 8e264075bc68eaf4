-- Begins a new life of an origin stream, or adopts the one that the copy knows, or notes more of the one
-- that it is in; also where Redis is full, since nothing is carried and trimmed before.
--
-- KEYS  1 state hash   2 origin stream   3 loss ledger
-- ARGV  1 epoch   2 seq behind which new IDs must come, or ''
--       3 up to where the stream counts as given out in a life that begins, or '' where none does
--       4 how many entries had been added up to there, or '' where nobody knows
--       5 number of arguments that follow for the hash: field, value, ...
--       then the arguments for one line of the ledger: field, value, ...; none for no line
-- Gives 1, or 0 if somebody else has settled another epoch meanwhile.

local state, stream, ledger, epoch, floor, given =
  KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2], ARGV[3]

if not is_type(stream, 'stream') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. stream .. ' and ' .. ledger .. ' must be streams')
end
local known = count(redis.call('HGET', state, 'out_epoch'))
local fields = 5 + count(ARGV[5])
local memory = { unpack(ARGV, 6, fields) }
if #memory == 0 or #memory % 2 ~= 0 then return redis.error_reply('ERR fields and values in pairs') end
if given == '' then
  if known ~= tonumber(epoch) then return 0 end
  redis.call('HSET', state, unpack(memory))
  return 1
end
if not is_seq(given) then return redis.error_reply('ERR a stream is given out up to a stream ID') end
if known >= tonumber(epoch) then return 0 end

if ARGV[fields + 1] then
  local line = redis.pcall('XADD', ledger, '*', unpack(ARGV, fields + 1))
  if type(line) == 'table' then return unadded(ledger, line) end
end
local is_there = redis.call('EXISTS', stream) == 1
if is_there or floor ~= '' then
  -- With MKSTREAM also where there is none, for the floor; an error says that the group is there already.
  redis.pcall('XGROUP', 'CREATE', stream, GROUP, given, 'MKSTREAM')
  local place = ARGV[4] ~= '' and { given, 'ENTRIESREAD', digits(count(ARGV[4])) } or { given }
  redis.call('XGROUP', 'SETID', stream, GROUP, unpack(place))
  redis.call('HSET', state, 'out_given', given)
  -- An error says that its IDs are past the floor already.
  if floor ~= '' then redis.pcall('XSETID', stream, floor) end
else
  redis.call('HDEL', state, 'out_given')
end
redis.call('HDEL', state, 'out_written', 'dead_epoch', 'dead_seq')
redis.call('HSET', state, 'out_epoch', epoch, unpack(memory))
return 1
