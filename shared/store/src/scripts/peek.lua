-- Looks at entries of a stream, without giving them out.
--
-- KEYS  1 stream
-- ARGV  1 after which seq   2 how many entries, at the most   3 after how many bytes no more are looked at
--       4 what no entry that can be carried is larger than
-- Gives pages as read.lua does.

local pages, from, given, bytes = {}, ARGV[1], 0, 0
while given < tonumber(ARGV[2]) and bytes < tonumber(ARGV[3]) do
  local size = page_size(given, bytes, tonumber(ARGV[2]))
  local page = redis.call('XRANGE', KEYS[1], '(' .. from, '+', 'COUNT', size)
  if #page == 0 then break end
  from = page[#page][1]
  given, bytes, pages[#pages + 1] = given + #page, add_page(page, bytes, tonumber(ARGV[4]))
  if #page < size then break end
end
return pages
