-- Appends the part of a batch that lies past the cursor, and moves the cursor with it.
--
-- KEYS  1 state hash (in_epoch, in_seq, in_digest, in_tally, in_added, in_at, in_lost, generation)
--       2 copy stream   3 loss ledger
-- ARGV  1 generation that must still be the newest, or '' for no fence
--       2 epoch, or 0 for the one the copy is in   3 seq where the batch before ended, or '' not to look for a gap
--       4 seq where the cursor goes   5 digest of the entry there, or ''   6 the origin's tally there
--       7 now in ms   8 about how many entries the copy keeps, or 0 for all
--       9 client   10 'up' (the copy bears client, epoch and seq) or 'down' (seq)
--       11 and 12 epoch and seq that the caller knows the copy to have reached
--       13 about how many lines the ledger keeps
--       14 number of losses, then for each: seq that the cursor must not have passed, how many
--          entries were lost, number of arguments that follow, field, value, ...
--       then all entries as one list in MessagePack, or '' for none: of each its seq, how many
--       elements follow, field, value, ...
-- Gives {'done', cursor, accepted, duplicates, copy's ID of the last} or {'superseded'}
--       or {'stale-epoch', epoch} or {'gap', cursor}
--
-- A script does not roll back: everything that can fail is looked at before the first write, and
-- the types of all keys with it. A Lua number holds 53 bits and each half of a seq 64, so seqs are
-- compared as digits. Epochs are below 2^32.
--
-- The entries come packed since an argument costs Redis more than an element of a list: with one each
-- for seqs, fields and values a batch of small entries takes a quarter longer.

local state, copy, ledger = KEYS[1], KEYS[2], KEYS[3]
local epoch, after, through = ARGV[2], ARGV[3], ARGV[4]
local now, max_len, client, direction = ARGV[7], ARGV[8], ARGV[9], ARGV[10]

local function digits_past(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

-- Whether seq a stands after seq b.
local function past(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return digits_past(a_ms, b_ms) end
  return digits_past(a_n, b_n)
end

local function is_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == 'none' or found == wanted
end

if not is_type(copy, 'stream') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. copy .. ' and ' .. ledger .. ' must be streams')
end
local known = redis.call('HMGET', state, 'generation', 'in_epoch', 'in_seq', 'in_added')
local cursor = known[3] or '0-0'
if ARGV[1] ~= '' and known[1] ~= ARGV[1] then
  if known[1] and tonumber(known[1]) > tonumber(ARGV[1]) then return {'superseded'} end
  -- This Redis has forgotten the session, and with it how far the copy was: start over from here.
  return {'gap', cursor}
end
-- Also where nothing else will change: whoever is told a cursor takes all up to it for kept, and what
-- waits behind this script for that covers it only by way of a write of its own (store/commit.rs).
redis.call('HSET', state, 'last_seen', now)
local reached, expected = tonumber(known[2] or 0), tonumber(ARGV[11])
if reached < expected or (reached == expected and past(ARGV[12], cursor)) then
  return {'gap', cursor}
end
if epoch == '0' then epoch = known[2] or '1' end
if tonumber(epoch) < tonumber(known[2] or 0) then return {'stale-epoch', known[2]} end
-- Another life of the origin: nothing of it is here yet, so its first batch joins on at 0-0.
if tonumber(epoch) > tonumber(known[2] or 0) then cursor = '0-0' end
if after ~= '' and past(after, cursor) then return {'gap', cursor} end

local is_capped = max_len ~= '0'
local at, losses, lost = 15, {}, 0
for _ = 1, tonumber(ARGV[14]) do
  if past(ARGV[at], cursor) then
    losses[#losses + 1] = at
    lost = lost + tonumber(ARGV[at + 1])
  end
  at = at + 3 + tonumber(ARGV[at + 2])
end

local entries = ARGV[at] == '' and {} or cmsgpack.unpack(ARGV[at])
-- What the copy has already stands at the front.
local duplicates = 0
at = 1
while entries[at] and not past(entries[at], cursor) do
  duplicates = duplicates + 1
  at = at + 2 + entries[at + 1]
end

local call, accepted, id = redis.call, 0, ''
while entries[at] do
  local seq, last = entries[at], at + 1 + entries[at + 1]
  if direction == 'up' then
    id = call('XADD', copy, '*', 'client', client, 'epoch', epoch, 'seq', seq,
      unpack(entries, at + 2, last))
  else
    id = call('XADD', copy, '*', 'seq', seq, unpack(entries, at + 2, last))
  end
  accepted = accepted + 1
  at = last + 1
end
for _, loss in ipairs(losses) do
  local line = { unpack(ARGV, loss + 3, loss + 2 + tonumber(ARGV[loss + 2])) }
  -- A batch that names no epoch: client, its name, direction, its word, epoch, 0, ...
  if line[6] == '0' then line[6] = epoch end
  redis.call('XADD', ledger, 'MAXLEN', '~', ARGV[13], '*', unpack(line))
end
if lost > 0 then redis.call('HINCRBY', state, 'in_lost', lost) end
if past(through, cursor) then
  redis.call('HSET', state, 'in_epoch', epoch, 'in_seq', through, 'in_digest', ARGV[5],
    'in_tally', ARGV[6], 'in_added', tonumber(known[4] or 0) + accepted, 'in_at', now)
  cursor = through
end
if is_capped and accepted > 0 then redis.call('XTRIM', copy, 'MAXLEN', '~', max_len) end
return {'done', cursor, accepted, duplicates, id}
