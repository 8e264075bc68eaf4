-- Appends the entries of a batch that are past the cursor, and moves the cursor.
--
-- KEYS  1 state hash (in_epoch, in_seq, in_digest, in_seal, in_tally, in_added, in_at, in_lost,
--         generation, registered_at, up_epoch)
--       2 copy stream   3 loss ledger
-- ARGV  1 generation that must still be the newest, or '' for no fence
--       2 epoch, or 0 for that of the copy   3 end of the batch before, or '' to look for no gap
--       4 new cursor   5 digest of the entry there, or ''   6 the origin's seal on it, or ''
--       7 the origin's tally there
--       8 now in ms   9 client   10 'up' (entries get client, epoch and seq) or 'down' (seq)
--       11 and 12 epoch and seq of the cursor that the caller knows
--       13 the greatest accepted seq, or '' for any   14 when the client was registered, in ms, or 0
--       15 '1' to only check whether the batch would be accepted
--       16 approximate number of lines that the ledger keeps   17 number of entries
--       18 number of losses, then for each: seq that the cursor must not have passed, number of lost
--          entries, number of arguments that follow, field, value, ...
--       then all entries as one list in MessagePack, or '' for none: for each its seq, number of
--       elements that follow, field, value, ...
-- Returns {'done', cursor, accepted, duplicates, copy's ID of the last}, {'ready'} after a check only,
--       or {'superseded'}, {'stale-epoch', epoch}, {'gap', cursor}, {'epoch-ahead', epoch}, {'seq-ahead'}
--
-- A script does not roll back: everything that can fail is checked before the first write, including
-- the types of all keys. A failure of the first write to a stream is undone.
--
-- The entries are packed because an argument costs Redis more than an element of a list: with an
-- argument for each seq, field and value, a batch of small entries takes a quarter longer. They are
-- unpacked only if one of them is new.

local state, copy, ledger = KEYS[1], KEYS[2], KEYS[3]
local generation, epoch, after, through = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local now, client, direction = ARGV[8], ARGV[9], ARGV[10]

if not is_type(copy, 'stream') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. copy .. ' and ' .. ledger .. ' must be streams')
end
local known = redis.call('HMGET', state, 'generation', 'in_epoch', 'in_seq', 'in_added', 'in_lost',
  'registered_at', 'up_epoch')
local copy_epoch, cursor = count(known[2]), known[3] or '0-0'
if not is_seq(cursor) then
  return redis.error_reply('ERR invalid field in_seq of ' .. state .. ': expected a stream ID; reset this client')
end
-- A client that was registered again starts from the beginning, whatever was stored for it before.
local registered = count(ARGV[14])
local is_reset = registered > count(known[6])
if is_reset and copy_epoch > 0 then copy_epoch, cursor = copy_epoch + 1, '0-0' end
if registered > 0 and registered < count(known[6]) then return { 'superseded' } end

-- Writes even if nothing else changes: the caller takes everything up to a cursor for stored, and the
-- barrier after this script covers only its own writes (group_commit.rs).
local function reply(answer)
  redis.call('HSET', state, 'last_seen', now)
  return answer
end

if generation ~= '' and known[1] ~= generation then
  if count(known[1]) > count(generation) then return { 'superseded' } end
  -- This Redis has lost the session, and with it the latest cursor: the sender starts again from here.
  return reply({ 'gap', cursor })
end
local expected = count(ARGV[11])
if copy_epoch < expected or (copy_epoch == expected and past(ARGV[12], cursor)) then
  return reply({ 'gap', cursor })
end
local batch_epoch = epoch == '0' and math.max(copy_epoch, 1) or count(epoch)
if batch_epoch < copy_epoch then return reply({ 'stale-epoch', digits(copy_epoch) }) end
if direction == 'up' then
  -- The epoch of a session was checked when it was opened.
  local most = generation ~= '' and math.max(copy_epoch, count(known[7])) + 1 or copy_epoch + 1
  if batch_epoch > most then return reply({ 'epoch-ahead', digits(copy_epoch) }) end
end
if ARGV[13] ~= '' and past(through, ARGV[13]) then return reply({ 'seq-ahead' }) end
-- A new epoch of the origin: the copy has none of its entries, so its first batch joins at 0-0.
if batch_epoch > copy_epoch then cursor = '0-0' end
-- The batches of a session join exactly. If the cursor is past that, another party has moved it.
if after ~= '' and (past(after, cursor) or (generation ~= '' and past(cursor, after))) then
  return reply({ 'gap', cursor })
end
if ARGV[15] == '1' then return reply({ 'ready' }) end
if not is_seq(through) then return redis.error_reply('ERR invalid end of the batch: expected a stream ID') end
if not past(through, cursor) then return reply({ 'done', cursor, 0, count(ARGV[17]), '' }) end

local at, losses, lost = 19, {}, 0
for _ = 1, count(ARGV[18]) do
  if past(ARGV[at], cursor) then
    local line = { unpack(ARGV, at + 3, at + 2 + count(ARGV[at + 2])) }
    if #line == 0 or #line % 2 ~= 0 then return redis.error_reply('ERR invalid line: expected pairs of field and value') end
    -- A batch without an epoch: client, its name, direction, its word, epoch, 0, ...
    if line[6] == '0' then line[6] = digits(batch_epoch) end
    losses[#losses + 1] = line
    lost = lost + count(ARGV[at + 1])
  end
  at = at + 3 + count(ARGV[at + 2])
end

local entries = ARGV[at] == '' and {} or cmsgpack.unpack(ARGV[at])
-- Entries that the copy has already come first.
local duplicates = 0
at = 1
while entries[at] and not past(entries[at], cursor) do
  duplicates = duplicates + 1
  at = at + 2 + entries[at + 1]
end

-- A stream that has no IDs left: everything that was written is removed.
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
    id, refused = add(copy, '*', 'client', client, 'epoch', digits(batch_epoch), 'seq', seq,
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
redis.call('HSET', state, 'in_epoch', digits(batch_epoch), 'in_seq', through, 'in_digest', ARGV[5],
  'in_seal', ARGV[6], 'in_tally', ARGV[7], 'in_added', digits(count(known[4]) + accepted),
  'in_at', now, 'last_seen', now)
if lost > 0 then
  redis.call('HSET', state, 'in_lost', digits(math.min(count(known[5]) + lost, COUNT_MAX)))
end
return { 'done', through, accepted, duplicates, id }
