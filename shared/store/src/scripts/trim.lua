-- Trims the in stream of a hub to an approximate length, but keeps entries younger than an age, and counts those
-- that a consumer group had not read.
--
-- KEYS  1 in stream   2 hash of the counters (unread, pending, from, to, told_at)   3 loss ledger
-- ARGV  1 approximate number of entries to keep   2 age in ms for which an entry is kept
--       3 maximum number of entries to remove   4 minimum time between two lines of the ledger, in ms
--       5 approximate number of lines that the ledger keeps
-- Returns {number of removed entries, number of those that a group had not read}
--
-- Whole nodes of the stream are removed, of some hundred entries. The age is that of the ID, by the clock of this
-- Redis, which generated it.

local stream, counted, ledger = KEYS[1], KEYS[2], KEYS[3]
local max_len, age, most = count(ARGV[1]), count(ARGV[2]), count(ARGV[3])

if not is_type(stream, 'stream') or not is_type(counted, 'hash') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. stream .. ' and ' .. ledger .. ' must be streams')
end
local time = redis.call('TIME')
local now = count(time[1]) * 1000 + math.floor(count(time[2]) / 1000)
local length = redis.call('XLEN', stream)
local excess = math.min(length - max_len, most)

-- Returns the number of entries that the slowest group has not read.
local function unread()
  local most_behind = 0
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for at = 1, #group, 2 do found[group[at]] = group[at + 1] end
    -- Redis has no lag if entries were deleted from the middle: then all may be unread.
    most_behind = math.max(most_behind, found['lag'] or length)
  end
  return most_behind
end

local function first_id()
  local first = redis.call('XRANGE', stream, '-', '+', 'COUNT', 1)[1]
  return first and first[1] or '0-0'
end

local removed, dropped = 0, 0
local known = redis.call('HMGET', counted, 'unread', 'pending', 'from', 'to', 'told_at')
local pending, from, to = count(known[2]), known[3], known[4]
if excess > 0 then
  local behind, first = unread(), first_id()
  removed = redis.call('XTRIM', stream, 'MINID', '~', digits(math.max(now - age, 0)), 'LIMIT',
    digits(excess))
  dropped = math.max(0, removed - (length - behind))
  if dropped > 0 then
    if pending == 0 then from = first end
    pending, to = pending + dropped, first_id()
    redis.call('HSET', counted, 'unread', digits(count(known[1]) + dropped), 'pending',
      digits(pending), 'from', from, 'to', to)
  end
end
if pending > 0 and now - count(known[5]) >= count(ARGV[4]) then
  local line = redis.pcall('XADD', ledger, 'MAXLEN', '~', ARGV[5], '*', 'client', '*', 'direction', 'up', 'epoch', '0',
    'from', from, 'to', to, 'count', digits(pending), 'cause', 'trimmed-unread', 'at', digits(now))
  if type(line) == 'table' then return unadded(ledger, line) end
  redis.call('HSET', counted, 'pending', '0', 'told_at', digits(now))
end
return { removed, dropped }
