-- Looks back through a copy for the entries of one origin.
--
-- KEYS  1 stream
-- ARGV  1 from which ID back, exclusive, or '+'   2 client that an entry's first field must name, or '' for
--       all   3 how many entries are looked at, at the most   4 after how many bytes no more are
--       5 how many bytes a field counts as at the least   6 what no entry of an origin is larger than
-- Gives {the ID down to which was looked, or '' at the stream's end, how many were looked at,
--        those of the origin, as XREVRANGE gives them}

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
