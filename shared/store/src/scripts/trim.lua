-- Trims the in stream of a hub to about a length, but keeps what is younger than an age, and counts what a
-- consumer group had not read yet.
--
-- KEYS  1 in stream   2 hash of what was counted (unread, pending, from, to, told_at)   3 loss ledger
-- ARGV  1 about how many entries are kept   2 age in ms that an entry is kept for
--       3 how many are taken out at a time, at the most   4 least time between two lines of the ledger, in ms
--       5 about how many lines the ledger keeps
-- Gives {how many were taken out, how many of those a group had not read}
--
-- Whole nodes of the stream go, of some hundred entries. The ages are those of its IDs, by the clock of
-- this Redis, which made them.

local stream, counted, ledger = KEYS[1], KEYS[2], KEYS[3]
local max_len, age, most = count(ARGV[1]), count(ARGV[2]), count(ARGV[3])

if not is_type(stream, 'stream') or not is_type(counted, 'hash') or not is_type(ledger, 'stream') then
  return redis.error_reply('WRONGTYPE ' .. stream .. ' and ' .. ledger .. ' must be streams')
end
local time = redis.call('TIME')
local now = count(time[1]) * 1000 + math.floor(count(time[2]) / 1000)
local length = redis.call('XLEN', stream)
local excess = math.min(length - max_len, most)

-- Of the entries that are there, those that the slowest group has not read.
local function unread()
  local most_behind = 0
  for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
    local found = {}
    for at = 1, #group, 2 do found[group[at]] = group[at + 1] end
    -- Redis does not know where entries were deleted from the middle: then all may be unread.
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
