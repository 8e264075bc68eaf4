-- Writes losses to the ledger, once. It also runs while Redis is full, since batches wait for it.
--
-- KEYS  1 state hash (out_epoch, out_written, out_lost)   2 loss ledger
-- ARGV  1 epoch   2 the record of all losses that are then in the ledger
--       3 approximate number of lines that the ledger keeps   4 number of lost entries in all lines
--       then for each line: number of arguments that follow, field, value, ...
-- Returns 1, also if these are there already, or 0 if the stream is in another epoch.

local state, ledger = KEYS[1], KEYS[2]

if not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. ledger .. ' must be a stream')
end
local known = redis.call('HMGET', state, 'out_epoch', 'out_written', 'out_lost')
if known[1] ~= ARGV[1] then return 0 end
if known[2] == ARGV[2] then return 1 end
local lines, at = {}, 5
while ARGV[at] do
  local last = at + count(ARGV[at])
  local line = { unpack(ARGV, at + 1, last) }
  if #line == 0 or #line % 2 ~= 0 then return redis.error_reply('ERR invalid line: expected pairs of field and value') end
  lines[#lines + 1] = line
  at = last + 1
end
local lost = math.min(count(known[3]) + count(ARGV[4]), COUNT_MAX)
local _, refused = add_lines(ledger, ARGV[3], lines)
if refused then return refused end
redis.call('HSET', state, 'out_written', ARGV[2], 'out_lost', digits(lost))
return 1
