#!lua flags=no-writes
-- Reads many clients at once, for an operator.
--
-- KEYS  for each client: its hash, its out stream
-- ARGV  1 the index of the acknowledged seq among the fields   then the fields of the hash
-- Returns for each client {the values of its hash, {first, last, deleted, length, added, ''} of its
--       out stream, the first seq there that is not acknowledged, or '', 1 if its key has another type}; {}
--       if the hash has another type
--
-- A stream whose key has another type is shown as empty, so that the other clients are listed.

local call, pcall, acked_at = redis.call, redis.pcall, tonumber(ARGV[1])
local told = {}
for at = 1, #KEYS, 2 do
  local stream, values = KEYS[at + 1], pcall('HMGET', KEYS[at], unpack(ARGV, 2))
  if values['err'] then
    told[#told + 1] = {}
  else
    local info, found = pcall('XINFO', 'STREAM', stream), {}
    local is_other = info['err'] and string.find(info['err'], 'WRONGTYPE', 1, true) and 1 or 0
    if not info['err'] then
      for pair = 1, #info, 2 do found[info[pair]] = info[pair + 1] end
    end
    local first = found['first-entry'] and found['first-entry'][1] or '0-0'
    local last, acked = found['last-generated-id'] or '0-0', values[acked_at] or '0-0'
    local waiting = ''
    if first ~= '0-0' and last ~= acked then
      local entry = pcall('XRANGE', stream, '(' .. acked, '+', 'COUNT', 1)
      waiting = not entry['err'] and entry[1] and entry[1][1] or ''
    end
    told[#told + 1] = { values, { first, last, found['max-deleted-entry-id'] or '0-0',
      found['length'] or 0, found['entries-added'] or 0, '' }, waiting, is_other }
  end
end
return told
