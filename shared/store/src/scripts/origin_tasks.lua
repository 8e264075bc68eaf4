-- Tasks of senders at their origin streams: for one or many clients, each with its own answer. They also run while
-- Redis is full, since entries that are carried and trimmed free memory.
--
-- KEYS  for each task: origin stream, state hash (out_epoch, out_mark, out_mark_added, out_given, out_acked, out_tally,
--         out_written, last_seen)
-- ARGV  1 number of entries after which no other read begins in this call   2 the same in bytes
--       then for each task seven, of which a task may leave the last ones empty:
--       'read', epoch of the caller, the high-water mark that it knows, the seq after which to read, maximum number of
--         entries, bytes after which no more are read, maximum bytes of an entry that can be carried
--       'ack', epoch, acknowledged seq, the tally there, first seq that stays in the stream, or '' not to trim, '1' if
--         the copy has acknowledged all losses in the ledger
--       'touch', now in ms
-- Returns for each task its answer, or an error, or 0 for a read that did not begin:
--       read: {{first, last, deleted, length, added, position of the group}, 1 if nothing follows or 0, page, ...},
--         or {} if the stream or the state is not what the caller knows, or they do not match
--       ack: 1, or -1 if the state or the stream has gone back or is in another epoch: entries with these seqs may be
--         new ones
--       touch: 1
--
-- Entries that were delivered before are read again without the group; only new ones move it. The lag of the
-- group, which XINFO GROUPS shows, is the number of entries that were not delivered yet.

local call_entries, call_bytes = 0, 0

-- Delivers entries of an origin stream, and records that in the same step.
local function read(stream, state, epoch, known_mark, from, most, bytes_most, entry_most)
  if call_entries >= tonumber(ARGV[1]) or call_bytes >= tonumber(ARGV[2]) then return 0 end
  most, bytes_most, entry_most = tonumber(most), tonumber(bytes_most), tonumber(entry_most)
  local found, refused = reach(stream)
  if refused then return refused end
  local last, added, position = found[2], found[5], found[6]
  local known = redis.call('HMGET', state, 'out_epoch', 'out_mark', 'out_mark_added', 'out_given')
  local mark = known[2] or '0-0'
  if known[1] ~= epoch or past(known_mark, mark) or past(mark, last) or count(known[3]) > added or
      not is_same(found, known[4]) then
    return {}
  end
  if position == '' then
    if last == '0-0' then return { found, 1 } end
    redis.call('XGROUP', 'CREATE', stream, GROUP, '0-0')
    position = '0-0'
  end

  local pages, given, bytes, is_end = {}, 0, 0, 0
  -- A Redis that has lost its last writes has not delivered entries that the copy has: they are not delivered
  -- again.
  if past(from, position) then
    redis.call('XGROUP', 'SETID', stream, GROUP, from)
    position = from
  end
  while given < most and bytes < bytes_most do
    local size, page = page_size(given, bytes, most), nil
    if past(position, from) then
      page = redis.call('XRANGE', stream, '(' .. from, position, 'COUNT', size)
      from = #page > 0 and page[#page][1] or position
    elseif past(last, position) then
      page = redis.call('XREADGROUP', 'GROUP', GROUP, GROUP, 'COUNT', size, 'NOACK', 'STREAMS', stream, '>')
      page = page and page[1][2] or {}
      if #page > 0 then
        position = page[#page][1]
      else
        -- The last entries were deleted.
        position = last
        redis.call('XGROUP', 'SETID', stream, GROUP, last, 'ENTRIESREAD', digits(added))
      end
      from = position
    else
      is_end = 1
      break
    end
    if #page > 0 then
      given, bytes, pages[#pages + 1] = given + #page, add_page(page, bytes, entry_most)
    end
  end
  if not past(last, from) then is_end = 1 end
  if past(last, mark) then
    redis.call('HSET', state, 'out_mark', last, 'out_mark_added', added, 'out_given', position)
  elseif position ~= found[6] then
    redis.call('HSET', state, 'out_given', position)
  end
  found[6] = position
  call_entries, call_bytes = call_entries + given, call_bytes + bytes
  return { found, is_end, unpack(pages) }
end

-- Records the acknowledgement of the copy, and trims the origin.
local function record_ack(stream, state, epoch, acked, tally, kept, are_losses_acked)
  if kept ~= '' and not is_seq(kept) then
    return redis.error_reply('ERR invalid seq to trim to: expected a stream ID')
  end
  local found, refused = reach(stream)
  if refused then return refused end
  local known = redis.call('HMGET', state, 'out_epoch', 'out_mark', 'out_given')
  if known[1] ~= epoch or past(acked, known[2] or '0-0') or not is_same(found, known[3]) then return -1 end
  redis.call('HSET', state, 'out_acked', acked, 'out_tally', tally)
  if are_losses_acked == '1' then redis.call('HDEL', state, 'out_written') end
  if kept ~= '' then redis.call('XTRIM', stream, 'MINID', kept) end
  return 1
end

-- Records when the client was last seen.
local function touch(_, state, now)
  redis.call('HSET', state, 'last_seen', now)
  return 1
end

local TASKS = { read = read, ack = record_ack, touch = touch }
local COMMON_ARGS, TASK_ARGS = 2, 7

local answers = {}
for task = 1, #KEYS / 2 do
  local last = COMMON_ARGS + task * TASK_ARGS
  local is_answered, answer = pcall(TASKS[ARGV[last - TASK_ARGS + 1]], KEYS[2 * task - 1], KEYS[2 * task],
    unpack(ARGV, last - TASK_ARGS + 2, last))
  answers[task] = is_answered and answer or failure(answer)
end
return answers
