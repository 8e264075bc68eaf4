#!lua flags=allow-oom
-- Writes losses to the ledger, once; also where Redis is full, since no batch passes them before.
--
-- KEYS  1 state hash (out_epoch, out_written, out_lost)   2 loss ledger
-- ARGV  1 epoch   2 what of this run of losses will then be written
--       3 about how many lines the ledger keeps   4 how many entries the lines are of
--       then for each line: number of arguments that follow, field, value, ...
-- Gives 1, also if these stand there already, or 0 where the stream is in another life.

local state, ledger = KEYS[1], KEYS[2]

local known = redis.call('HMGET', state, 'out_epoch', 'out_written')
if known[1] ~= ARGV[1] then return 0 end
if known[2] == ARGV[2] then return 1 end
local at = 5
while ARGV[at] do
  local last = at + tonumber(ARGV[at])
  redis.call('XADD', ledger, 'MAXLEN', '~', ARGV[3], '*', unpack(ARGV, at + 1, last))
  at = last + 1
end
redis.call('HSET', state, 'out_written', ARGV[2])
redis.call('HINCRBY', state, 'out_lost', ARGV[4])
return 1
