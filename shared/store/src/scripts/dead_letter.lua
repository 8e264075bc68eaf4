-- Copies an entry that can never be carried to the dead letters, inside Redis. It also runs while Redis is
-- full, since no later entry is carried and trimmed before it.
--
-- KEYS  1 state hash (out_epoch, out_mark, out_given, dead_epoch, dead_seq, dead_count)
--       2 origin stream   3 dead letters
-- ARGV  1 epoch   2 seq   3 reason   4 client, or '' if the dead letters are of one client only
--       5 approximate number of dead letters to keep
-- Returns 1, or 0 if the stream or its epoch has changed.
--
-- A dead letter has the fields seq and reason in front. An entry with more fields than a script can pass on
-- becomes several dead letters with the field `part` 1/3, 2/3, ...

local state, stream, dead, epoch, seq = KEYS[1], KEYS[2], KEYS[3], ARGV[1], ARGV[2]
-- Lua passes on at most 8,000 values at once.
local PARTS_MAX = 7800

if not is_type(dead, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. dead .. ' must be a stream')
end
local found, refused = reach(stream)
if refused then return refused end
local known = redis.call('HMGET', state, 'out_epoch', 'out_mark', 'out_given', 'dead_epoch', 'dead_seq',
  'dead_count')
if known[1] ~= epoch or past(seq, known[2] or '0-0') or not is_same(found, known[3]) then return 0 end
if known[4] == epoch and is_seq(known[5]) and not past(seq, known[5]) then return 1 end

local entry = redis.call('XRANGE', stream, seq, seq)[1]
local fields = entry and entry[2] or {}
local parts = math.max(1, math.ceil(#fields / PARTS_MAX))
local lines = {}
for part = 1, parts do
  local line = { 'seq', seq, 'reason', ARGV[3] }
  if ARGV[4] ~= '' then line = { 'client', ARGV[4], unpack(line) } end
  if parts > 1 then
    line[#line + 1] = 'part'
    line[#line + 1] = part .. '/' .. parts
  end
  local first = (part - 1) * PARTS_MAX + 1
  for at = first, math.min(first + PARTS_MAX - 1, #fields) do line[#line + 1] = fields[at] end
  lines[part] = line
end
local _, not_added = add_lines(dead, ARGV[5], lines)
if not_added then return not_added end
redis.call('HSET', state, 'dead_epoch', epoch, 'dead_seq', seq, 'dead_count',
  digits(math.min(count(known[6]) + 1, COUNT_MAX)))
return 1
