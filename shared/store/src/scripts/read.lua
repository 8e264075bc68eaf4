-- Delivers entries of an origin stream, and records that in the same step. It also runs while Redis is full,
-- since entries that are carried and trimmed free memory.
--
-- KEYS  1 origin stream   2 state hash (out_epoch, out_mark, out_mark_added, out_given)
-- ARGV  1 epoch of the caller   2 the high-water mark that it knows   3 the seq after which to read
--       4 maximum number of entries   5 bytes after which no more are read
--       6 maximum bytes of an entry that can be carried
-- Returns {{first, last, deleted, length, added, position of the group}, 1 if nothing follows or 0, page, ...},
--       or {} if the stream or the state is not what the caller knows, or they do not match.
--
-- Entries that were delivered before are read again without the group; only new ones move it. The lag of the
-- group, which XINFO GROUPS shows, is the number of entries that were not delivered yet.

local stream, state = KEYS[1], KEYS[2]
local most, bytes_most, entry_most = tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])

local found, refused = reach(stream)
if refused then return refused end
local last, added, position = found[2], found[5], found[6]
local known = redis.call('HMGET', state, 'out_epoch', 'out_mark', 'out_mark_added', 'out_given')
local mark = known[2] or '0-0'
if known[1] ~= ARGV[1] or past(ARGV[2], mark) or past(mark, last) or count(known[3]) > added or
    not is_same(found, known[4]) then
  return {}
end
if position == '' then
  if last == '0-0' then return { found, 1 } end
  redis.call('XGROUP', 'CREATE', stream, GROUP, '0-0')
  position = '0-0'
end

local pages, from, given, bytes, is_end = {}, ARGV[3], 0, 0, 0
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
return { found, is_end, unpack(pages) }
