#!lua flags=no-writes
-- Looks back through a copy for the entries of one origin.
--
-- KEYS  1 stream
-- ARGV  1 from which ID back, exclusive, or '+'   2 client that an entry's first field must name, or '' for
--       all   3 how many entries are looked at, at the most   4 after how many bytes no more are
--       5 how many bytes a field counts as at the least
-- Gives {the ID down to which was looked, or '' at the stream's end, how many were looked at,
--        those of the origin, as XREVRANGE gives them}
--
-- Four at a time, since each may be of a megabyte: then one call stays within some milliseconds.

local stream, from, client = KEYS[1], ARGV[1], ARGV[2]
local most, bytes_most, least = tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])

local own, looked, bytes = {}, 0, 0
while looked < most and bytes < bytes_most do
  local page = redis.call('XREVRANGE', stream, from == '+' and '+' or '(' .. from, '-', 'COUNT', 4)
  for _, entry in ipairs(page) do
    local fields = entry[2]
    from, looked = entry[1], looked + 1
    for at = 1, #fields, 2 do bytes = bytes + math.max(#fields[at] + #fields[at + 1], least) end
    if client == '' or (fields[1] == 'client' and fields[2] == client) then own[#own + 1] = entry end
  end
  if #page < 4 then return { '', looked, own } end
end
return { from, looked, own }
