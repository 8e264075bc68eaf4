-- Reads entries of a stream without delivering them.
--
-- KEYS  1 stream
-- ARGV  1 the seq after which to read   2 maximum number of entries   3 bytes after which no more are read
--       4 maximum bytes of an entry that can be carried
-- Returns pages like a read of origin_tasks.lua.

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
