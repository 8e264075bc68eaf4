-- Searches a copy backwards for the entries of one origin.
--
-- KEYS  1 stream
-- ARGV  1 the ID before which to read, or '+'   2 client in the first field of an entry, or '' for all
--       3 maximum number of entries to read   4 bytes after which no more are read
--       5 minimum bytes that a field is charged   6 maximum bytes of an entry of an origin
-- Returns {the ID down to which was read, or '' at the end of the stream, number of entries read,
--        those of the origin, as XREVRANGE returns them}

local stream, from, client = KEYS[1], ARGV[1], ARGV[2]
local most, bytes_most, least = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local entry_most = tonumber(ARGV[6])

local own, looked, bytes = {}, 0, 0
while looked < most and bytes < bytes_most do
  local size = page_size(looked, bytes, most)
  local page = redis.call('XREVRANGE', stream, from == '+' and '+' or '(' .. from, '-', 'COUNT', size)
  for _, entry in ipairs(page) do
    local fields, length, counted = entry[2], 0, 0
    from, looked = entry[1], looked + 1
    for at = 1, #fields, 2 do
      local field = #fields[at] + #fields[at + 1]
      length, counted = length + field, counted + math.max(field, least)
    end
    bytes = bytes + counted
    local is_own = client == '' or (fields[1] == 'client' and fields[2] == client)
    if is_own and length <= entry_most then own[#own + 1] = entry end
  end
  if #page < size then return { '', looked, own } end
end
return { from, looked, own }
