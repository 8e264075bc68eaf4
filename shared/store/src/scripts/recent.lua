-- Searches a stream backwards for its newest entries, or for those of one client, and cuts them to what is shown.
--
-- KEYS  1 stream
-- ARGV  1 the ID before which to read, or '+'   2 client in the first field of an entry, or '' for all
--       3 number of wanted entries   4 maximum number of entries to read   5 bytes after which no more are read
--       6 maximum number of fields to return per entry   7 maximum bytes of a name or value
-- Returns {the ID down to which was read, or '' at the end of the stream,
--        for each entry {ID, number of fields, name, value, length of the value, ...}}

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
