-- What several scripts need: seqs and counts, whatever a hash or a caller holds.
--
-- A Lua number holds 53 bits and each half of a seq 64, so seqs are compared as digits.

local function is_seq(text)
  return text and string.match(text, '^%d+%-%d+$') ~= nil
end

local function digits_past(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

-- Whether seq a stands after seq b.
local function past(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return digits_past(a_ms, b_ms) end
  return digits_past(a_n, b_n)
end

local COUNT_MAX = 9007199254740991

-- A whole number that Lua holds exactly; 0 for what is none.
local function count(text)
  local number = text and string.match(text, '^%d+$') and tonumber(text) or 0
  return math.min(number, COUNT_MAX)
end

-- As redis.call takes it: a number of Lua would be written as 1e+15.
local function digits(number)
  return string.format('%.0f', number)
end

-- Somebody has added the highest ID that there is.
local function exhausted(key)
  return redis.error_reply('EXHAUSTED ' .. key .. ' has given out the highest ID that there is')
end

-- What XADD gave in place of an ID, with the key in it where that stream takes no more.
local function unadded(key, error)
  if not string.find(error['err'] or '', 'exhausted', 1, true) then return error end
  return exhausted(key)
end

-- Adds lines to a stream that keeps about so many: all of them or none. Gives an error, if there is one.
local function add_lines(key, most, lines)
  local added = {}
  for _, line in ipairs(lines) do
    local id = redis.pcall('XADD', key, 'MAXLEN', '~', most, '*', unpack(line))
    if type(id) == 'table' then
      for _, before in ipairs(added) do redis.call('XDEL', key, before) end
      return unadded(key, id)
    end
    added[#added + 1] = id
  end
end

local function is_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == 'none' or found == wanted
end
