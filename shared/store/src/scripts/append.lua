-- Appends the part of a batch that lies past the cursor, and moves the cursor with it.
--
-- KEYS  1 state hash (in_epoch, in_seq, in_digest, in_seal, in_tally, in_added, in_at, in_lost,
--         generation, registered_at, up_epoch)
--       2 copy stream   3 loss ledger
-- ARGV  1 generation that must still be the newest, or '' for no fence
--       2 epoch, or 0 for the one the copy is in   3 seq where the batch before ended, or '' not to look for a gap
--       4 seq where the cursor goes   5 digest of the entry there, or ''   6 the origin's seal on it, or ''
--       7 the origin's tally there
--       8 now in ms   9 client   10 'up' (the copy bears client, epoch and seq) or 'down' (seq)
--       11 and 12 epoch and seq that the caller knows the copy to have reached
--       13 the last seq that is taken, or '' for any   14 when the client was registered, in ms, or 0
--       15 '1' only to look whether the batch would be taken
--       16 about how many lines the ledger keeps   17 number of entries
--       18 number of losses, then for each: seq that the cursor must not have passed, how many
--          entries were lost, number of arguments that follow, field, value, ...
--       then all entries as one list in MessagePack, or '' for none: of each its seq, how many
--       elements follow, field, value, ...
-- Gives {'done', cursor, accepted, duplicates, copy's ID of the last}, {'ready'} where it was only
--       looked, or {'superseded'}, {'stale-epoch', epoch}, {'gap', cursor}, {'epoch-ahead', epoch},
--       {'seq-ahead'}
--
-- A script does not roll back: everything that can fail is looked at before the first write, and
-- the types of all keys with it. What can fail in the first write of a stream is undone.
--
-- The entries come packed since an argument costs Redis more than an element of a list: with one each
-- for seqs, fields and values a batch of small entries takes a quarter longer. They are unpacked only
-- where one of them is new.

local state, copy, ledger = KEYS[1], KEYS[2], KEYS[3]
local generation, epoch, after, through = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now, client, direction = ARGV[8], ARGV[9], ARGV[10]

if not is_type(copy, 'stream') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. copy .. ' and ' .. ledger .. ' must be streams')
end
local known = redis.call('HMGET', state, 'generation', 'in_epoch', 'in_seq', 'in_added', 'in_lost',
  'registered_at', 'up_epoch')
local reached, cursor = count(known[2]), known[3] or '0-0'
if not is_seq(cursor) then
  return redis.error_reply('ERR the field in_seq of ' .. state .. ' is no stream ID: reset this client')
end
-- A client that was registered again begins anew, whatever was written in its name before.
local registered = count(ARGV[14])
local is_reset = registered > count(known[6])
if is_reset and reached > 0 then reached, cursor = reached + 1, '0-0' end
if registered > 0 and registered < count(known[6]) then return { 'superseded' } end

-- Also where nothing else changes there is a write: whoever is told a cursor takes all up to it for
-- kept, and what waits behind this script for that covers it only by way of a write of its own
-- (store/commit.rs).
local function tell(answer)
  redis.call('HSET', state, 'last_seen', now)
  return answer
end

if generation ~= '' and known[1] ~= generation then
  if count(known[1]) > count(generation) then return { 'superseded' } end
  -- This Redis has forgotten the session, and with it how far the copy was: start over from here.
  return tell({ 'gap', cursor })
end
local expected = count(ARGV[11])
if reached < expected or (reached == expected and past(ARGV[12], cursor)) then
  return tell({ 'gap', cursor })
end
local life = epoch == '0' and math.max(reached, 1) or count(epoch)
if life < reached then return tell({ 'stale-epoch', digits(reached) }) end
if direction == 'up' then
  -- What a session told when it began was looked at then.
  local most = generation ~= '' and math.max(reached, count(known[7])) + 1 or reached + 1
  if life > most then return tell({ 'epoch-ahead', digits(reached) }) end
end
if ARGV[13] ~= '' and past(through, ARGV[13]) then return tell({ 'seq-ahead' }) end
-- Another life of the origin: nothing of it is here yet, so its first batch joins on at 0-0.
if life > reached then cursor = '0-0' end
-- A session's batches join exactly. Where the cursor is past that, somebody else has moved it.
if after ~= '' and (past(after, cursor) or (generation ~= '' and past(cursor, after))) then
  return tell({ 'gap', cursor })
end
if ARGV[15] == '1' then return tell({ 'ready' }) end
if not is_seq(through) then return redis.error_reply('ERR a batch ends at a stream ID') end
if not past(through, cursor) then return tell({ 'done', cursor, 0, count(ARGV[17]), '' }) end

local at, losses, lost = 19, {}, 0
for _ = 1, count(ARGV[18]) do
  if past(ARGV[at], cursor) then
    local line = { unpack(ARGV, at + 3, at + 2 + count(ARGV[at + 2])) }
    if #line == 0 or #line % 2 ~= 0 then return redis.error_reply('ERR fields and values in pairs') end
    -- A batch that names no epoch: client, its name, direction, its word, epoch, 0, ...
    if line[6] == '0' then line[6] = digits(life) end
    losses[#losses + 1] = line
    lost = lost + count(ARGV[at + 1])
  end
  at = at + 3 + count(ARGV[at + 2])
end

local entries = ARGV[at] == '' and {} or cmsgpack.unpack(ARGV[at])
-- What the copy has already stands at the front.
local duplicates = 0
at = 1
while entries[at] and not past(entries[at], cursor) do
  duplicates = duplicates + 1
  at = at + 2 + entries[at + 1]
end

-- A stream that has given out its last ID takes no more: then nothing is left of what was written.
local lines, accepted, id, first = {}, 0, '', nil
local function add(key, ...)
  local added = redis.pcall('XADD', key, ...)
  if type(added) ~= 'table' then return added end
  for _, line in ipairs(lines) do redis.call('XDEL', ledger, line) end
  for _, entry in ipairs(first and redis.call('XRANGE', copy, first, '+') or {}) do
    redis.call('XDEL', copy, entry[1])
  end
  return nil, unadded(key, added)
end
for _, line in ipairs(losses) do
  local added, refused = add(ledger, 'MAXLEN', '~', ARGV[16], '*', unpack(line))
  if refused then return refused end
  lines[#lines + 1] = added
end
while entries[at] do
  local seq, last = entries[at], at + 1 + entries[at + 1]
  local refused
  if direction == 'up' then
    id, refused = add(copy, '*', 'client', client, 'epoch', digits(life), 'seq', seq,
      unpack(entries, at + 2, last))
  else
    id, refused = add(copy, '*', 'seq', seq, unpack(entries, at + 2, last))
  end
  if refused then return refused end
  first = first or id
  accepted = accepted + 1
  at = last + 1
end
if is_reset then
  redis.call('HSET', state, 'registered_at', digits(registered))
end
redis.call('HSET', state, 'in_epoch', digits(life), 'in_seq', through, 'in_digest', ARGV[5],
  'in_seal', ARGV[6], 'in_tally', ARGV[7], 'in_added', digits(count(known[4]) + accepted),
  'in_at', now, 'last_seen', now)
if lost > 0 then
  redis.call('HSET', state, 'in_lost', digits(math.min(count(known[5]) + lost, COUNT_MAX)))
end
return { 'done', through, accepted, duplicates, id }
