-- Looks back through a stream for its newest entries, or for those of one client, without handing out
-- what is too long to show.
--
-- KEYS  1 stream
-- ARGV  1 from which ID back, exclusive, or '+'   2 client that an entry's first field must name, or ''
--       3 how many entries are wanted   4 how many are looked at, at the most   5 after how many bytes
--       no more are   6 how many fields of an entry are given   7 how many bytes of a name or value
-- Gives {the ID down to which was looked, or '' at the stream's end,
--        of each entry {ID, how many fields, name, value, length of the value, ...}}

local stream, from, client = KEYS[1], ARGV[1], ARGV[2]
local wanted, most, bytes_most = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
local fields_most, kept = 2 * tonumber(ARGV[6]), tonumber(ARGV[7])

local given, looked, bytes = {}, 0, 0
while #given < wanted and looked < most and bytes < bytes_most do
  local size = page_size(looked, bytes, most)
  local page = redis.call('XREVRANGE', stream, from == '+' and '+' or '(' .. from, '-', 'COUNT', size)
  for _, entry in ipairs(page) do
    local id, fields = entry[1], entry[2]
    from, looked = id, looked + 1
    local length = 0
    for _, text in ipairs(fields) do length = length + math.max(#text, 32) end
    bytes = bytes + length
    if client == '' or (fields[1] == 'client' and fields[2] == client) then
      local one = { id, #fields / 2 }
      for at = 1, math.min(#fields, fields_most), 2 do
        one[#one + 1] = string.sub(fields[at], 1, kept)
        one[#one + 1] = string.sub(fields[at + 1], 1, kept)
        one[#one + 1] = #fields[at + 1]
      end
      given[#given + 1] = one
      if #given >= wanted then break end
    end
  end
  if #page < size then
    if #given < wanted then from = '' end
    break
  end
end
return { from, given }
