-- Appends the batches of one or many clients: of each the entries past its cursor, and moves the cursor.
--
-- KEYS  1 copy stream   2 loss ledger   then for each batch the state hash of its client (in, in_lost, generation,
--         registered_at, up_epoch)
-- ARGV  1 now in ms   2 'up' (entries get client, epoch and seq) or 'down' (seq)
--       3 the greatest accepted seq, or '' for any   4 approximate number of lines that the ledger keeps
--       then for each batch:
--       1 generation that must still be the newest, or '' for no fence
--       2 epoch, or 0 for that of the copy   3 client
--       4 the state (copy_state.lua) that the batch follows, or '' if the caller does not know it
--       5 the state after it
--       6 what is checked if the state is not known, as a list of texts in MessagePack:
--         1 end of the batch before, or '' to look for no gap   2 new cursor
--         3 digest of the entry there, or '-'   4 the origin's seal on it, or '-'   5 the origin's tally there
--         6 and 7 epoch and seq of the cursor that the caller knows
--         8 when the client was registered, in ms, or 0   9 '1' to only check whether the batch would be accepted
--         10 number of entries
--         then for each loss: seq that the cursor must not have passed, number of lost entries, number of texts
--         that follow, field, value, ...
--       7 all entries as one list in MessagePack, or '' for none: for each its seq, number of elements that follow,
--         field, value, ...
-- Returns for each batch its answer, or an error. With an expected state: the copy's ID of its last entry, or '', or
--       {'unexpected'} if the state is another one; without: {'done', cursor, accepted, duplicates, copy's ID of the
--       last, state}, {'ready'} after a check only, {'superseded'}, {'stale-epoch', epoch}, {'gap', cursor},
--       {'epoch-ahead', epoch}, {'seq-ahead'}
--
-- The caller knows the state from its last batch, so nearly all batches follow the expected one: one comparison then
-- stands for all checks, which the caller has done. Whoever changes anything that they depend on changes the state or
-- the generation. A caller that was wrong sends the batch again, with all that is checked.
--
-- A script does not roll back: everything that can fail is checked before the first write of a batch, and a failure of
-- a later write to a stream is undone. A batch that fails does not touch the others.
--
-- Entries and details are packed because an argument costs Redis more than an element of a list. They are unpacked
-- only where they are needed.

local copy, ledger = KEYS[1], KEYS[2]
local now, direction, ceiling, ledger_max = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local COMMON_KEYS, COMMON_ARGS, BATCH_ARGS = 2, 4, 7

local function unpacked(list)
  return list == '' and {} or cmsgpack.unpack(list)
end

-- Adds the entries from element `at` on. Returns their number and the ID of the last, or nil and the error: a stream
-- that has no IDs left gets none of them.
local function add_entries(client, epoch, entries, at)
  local accepted, first, id = 0, nil, ''
  while entries[at] do
    local seq, last, added = entries[at], at + 1 + entries[at + 1], nil
    if direction == 'up' then
      added = redis.pcall('XADD', copy, '*', 'client', client, 'epoch', epoch, 'seq', seq,
        unpack(entries, at + 2, last))
    else
      added = redis.pcall('XADD', copy, '*', 'seq', seq, unpack(entries, at + 2, last))
    end
    if type(added) == 'table' then
      for _, entry in ipairs(first and redis.call('XRANGE', copy, first, '+') or {}) do
        redis.call('XDEL', copy, entry[1])
      end
      return nil, unadded(copy, added)
    end
    first, id, accepted, at = first or added, added, accepted + 1, last + 1
  end
  return accepted, id
end

-- Returns the ledger lines for losses that the cursor has not passed, and the number of lost entries.
local function new_losses(details, cursor, epoch)
  local losses, lost, at = {}, 0, 11
  while details[at] do
    local last = at + 2 + count(details[at + 2])
    if past(details[at], cursor) then
      local line = { unpack(details, at + 3, last) }
      -- A batch without an epoch: client, its name, direction, its word, epoch, 0, ...
      if line[6] == '0' then line[6] = digits(epoch) end
      losses[#losses + 1] = line
      lost = lost + count(details[at + 1])
    end
    at = last + 1
  end
  return losses, lost
end

local function check_and_append(state, generation, epoch, client, packed_details, packed)
  if not is_type(copy, 'stream') or not is_type(ledger, 'stream') then
    return redis.error_reply('WRONGTYPE ' .. copy .. ' and ' .. ledger .. ' must be streams')
  end
  local details = cmsgpack.unpack(packed_details)
  local after, through = details[1], details[2]
  local known = redis.call('HMGET', state, 'in', 'generation', 'in_lost', 'registered_at', 'up_epoch')
  local copy_epoch, cursor, added, at = parse_state(known[1])
  if not copy_epoch then
    return redis.error_reply('ERR invalid field in of ' .. state .. ': expected the state of a copy; reset this client')
  end
  -- A client that was registered again starts from the beginning, whatever was stored for it before.
  local registered = count(details[8])
  local is_reset = registered > count(known[4])
  if is_reset and copy_epoch > 0 then copy_epoch, cursor = copy_epoch + 1, '0-0' end
  if registered > 0 and registered < count(known[4]) then return { 'superseded' } end

  -- Writes even if nothing else changes: the caller takes everything up to a cursor for stored, and the
  -- barrier after this script covers only its own writes (group_commit.rs).
  local function reply(answer)
    redis.call('HSET', state, 'last_seen', now)
    return answer
  end

  if generation ~= '' and known[2] ~= generation then
    if count(known[2]) > count(generation) then return { 'superseded' } end
    -- This Redis has lost the session, and with it the latest cursor: the sender starts again from here.
    return reply({ 'gap', cursor })
  end
  local expected = count(details[6])
  if copy_epoch < expected or (copy_epoch == expected and past(details[7], cursor)) then
    return reply({ 'gap', cursor })
  end
  local batch_epoch = epoch == '0' and math.max(copy_epoch, 1) or count(epoch)
  if batch_epoch < copy_epoch then return reply({ 'stale-epoch', digits(copy_epoch) }) end
  if direction == 'up' then
    -- The epoch of a session was checked when it was opened.
    local most = generation ~= '' and math.max(copy_epoch, count(known[5])) + 1 or copy_epoch + 1
    if batch_epoch > most then return reply({ 'epoch-ahead', digits(copy_epoch) }) end
  end
  if ceiling ~= '' and past(through, ceiling) then return reply({ 'seq-ahead' }) end
  -- A new epoch of the origin: the copy has none of its entries, so its first batch joins at 0-0.
  if batch_epoch > copy_epoch then cursor = '0-0' end
  -- The batches of a session join exactly. If the cursor is past that, another party has moved it.
  if after ~= '' and (past(after, cursor) or (generation ~= '' and past(cursor, after))) then
    return reply({ 'gap', cursor })
  end
  if details[9] == '1' then return reply({ 'ready' }) end
  if not is_seq(through) then return redis.error_reply('ERR invalid end of the batch: expected a stream ID') end
  if not past(through, cursor) then
    return reply({ 'done', cursor, 0, count(details[10]), '', known[1] or '' })
  end

  local entries = unpacked(packed)
  -- Entries that the copy has already come first.
  local duplicates, first = 0, 1
  while entries[first] and not past(entries[first], cursor) do
    duplicates = duplicates + 1
    first = first + 2 + entries[first + 1]
  end
  local losses, lost = new_losses(details, cursor, batch_epoch)
  local lines, no_line = add_lines(ledger, ledger_max, losses)
  if not lines then return no_line end
  local accepted, id = add_entries(client, digits(batch_epoch), entries, first)
  if not accepted then
    for _, line in ipairs(lines) do redis.call('XDEL', ledger, line) end
    return id
  end
  local new = state_text(batch_epoch, through, math.min(added + accepted, COUNT_MAX), now, details[3], details[4], details[5])
  redis.call('HSET', state, 'in', new)
  if is_reset then redis.call('HSET', state, 'registered_at', digits(registered)) end
  if lost > 0 then
    redis.call('HSET', state, 'in_lost', digits(math.min(count(known[3]) + lost, COUNT_MAX)))
  end
  return { 'done', through, accepted, duplicates, id, new }
end

local function append(state, generation, epoch, client, expected, new, details, packed)
  if expected == '' then return check_and_append(state, generation, epoch, client, details, packed) end
  local known = redis.pcall('HMGET', state, 'in', 'generation')
  if known['err'] then return known end
  if known[1] ~= expected or (known[2] or '') ~= generation then return { 'unexpected' } end
  local accepted, id = add_entries(client, epoch, unpacked(packed), 1)
  if accepted then redis.call('HSET', state, 'in', new) end
  return id
end

local answers = {}
for batch = 1, #KEYS - COMMON_KEYS do
  local last = COMMON_ARGS + batch * BATCH_ARGS
  local is_answered, answer =
    pcall(append, KEYS[COMMON_KEYS + batch], unpack(ARGV, last - BATCH_ARGS + 1, last))
  answers[batch] = is_answered and answer or failure(answer)
end
return answers
