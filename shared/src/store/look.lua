-- Looks how far an origin stream reaches, and marks that before anything of it is sent; also where
-- Redis is full, since what is carried and trimmed makes room there.
--
-- KEYS  1 origin stream   2 state hash (out_epoch, out_mark, out_mark_added)
-- ARGV  1 epoch that the caller sends under, or '' only to look   2 the mark that it knows
--       then a command to run first, if any: its answer and what this gives are then a pair
-- Gives {first, last, deleted, length, added} or {'rewound'}: the state or the stream is behind what
--       the caller knows of it, so one of them is not what it was.
--
-- Nothing is written while the stream stands still. XINFO's own answer would bring the first and the
-- last entry along, be they of a megabyte each.

local stream, state, epoch = KEYS[1], KEYS[2], ARGV[1]
local before = ARGV[3] and redis.call(unpack(ARGV, 3))

local function answer(found)
  if ARGV[3] then return { before, found } end
  return found
end

local info = redis.pcall('XINFO', 'STREAM', stream)
if info['err'] then
  if not string.find(info['err'], 'no such key', 1, true) then return info end
  info = {}
end
local found = {}
for at = 1, #info, 2 do found[info[at]] = info[at + 1] end
local first = found['first-entry'] and found['first-entry'][1] or '0-0'
local last, added = found['last-generated-id'] or '0-0', found['entries-added'] or 0
local extent =
  { first, last, found['max-deleted-entry-id'] or '0-0', found['length'] or 0, added }
if epoch == '' then return answer(extent) end

local known = redis.call('HMGET', state, 'out_epoch', 'out_mark', 'out_mark_added')
local mark, marked = known[2] or '0-0', tonumber(known[3] or 0)
if known[1] ~= epoch or past(ARGV[2], mark) or past(mark, last) or marked > added then
  return answer({ 'rewound' })
end
if past(last, mark) then
  redis.call('HSET', state, 'out_mark', last, 'out_mark_added', added)
end
return answer(extent)
