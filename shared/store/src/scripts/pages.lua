-- Shared functions: entries of a stream in pages, each packed as MessagePack:
-- {{seq, {field, value, ...}}, ...}. An entry that is too large to be carried has no fields there: they are never
-- read from Redis.

-- An entry may have a megabyte, so the first page has one entry. Later pages have more while entries are small.
local PAGE_MAX, PAGE_BYTES = 16, 65536

local function page_size(given, bytes, most)
  local size = 1
  if given > 0 then
    size = math.max(1, math.min(PAGE_MAX, 4 * given, math.floor(PAGE_BYTES * given / bytes)))
  end
  return math.min(size, most - given)
end

-- Returns the bytes including this page, where a field counts as at least 64, and the packed page.
local function add_page(page, bytes, entry_bytes_max)
  local packed = cmsgpack.pack(page)
  local parts = 0
  for _, entry in ipairs(page) do parts = parts + #entry[2] end
  if #packed > entry_bytes_max then
    for _, entry in ipairs(page) do
      local size = 0
      for _, part in ipairs(entry[2]) do size = size + #part end
      if size > entry_bytes_max then entry[2] = {} end
    end
    packed = cmsgpack.pack(page)
  end
  return bytes + math.max(#packed, 32 * parts), packed
end
