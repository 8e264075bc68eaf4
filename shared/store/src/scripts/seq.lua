-- Shared functions: seqs and counts, for any text in a hash or an argument.
--
-- A Lua number holds 53 bits and each half of a seq 64, so seqs are compared as digits.

local function is_seq(text)
  return text and string.match(text, '^%d+%-%d+$') ~= nil
end

local function digits_past(a, b)
  if #a ~= #b then return #a > #b end
  return a > b
end

-- Returns whether seq a is after seq b.
local function past(a, b)
  local a_ms, a_n = string.match(a, '^(%d+)-(%d+)$')
  local b_ms, b_n = string.match(b, '^(%d+)-(%d+)$')
  if a_ms ~= b_ms then return digits_past(a_ms, b_ms) end
  return digits_past(a_n, b_n)
end

local COUNT_MAX = 9007199254740991

-- Parses a whole number that Lua holds exactly; 0 for any other text.
local function count(text)
  local number = text and string.match(text, '^%d+$') and tonumber(text) or 0
  return math.min(number, COUNT_MAX)
end

-- Formats a number for redis.call, which would write a Lua number as 1e+15.
local function digits(number)
  return string.format('%.0f', number)
end

-- Returns the error for a stream without IDs left.
local function exhausted(key)
  return redis.error_reply('EXHAUSTED ' .. key .. ' has generated the highest possible ID')
end

-- Returns the error of XADD, with the key if the stream has no IDs left.
local function unadded(key, error)
  if not string.find(error['err'] or '', 'exhausted', 1, true) then return error end
  return exhausted(key)
end

-- Adds lines to a stream that keeps approximately `most`: all of them or none. Returns their IDs, or nil and the error.
local function add_lines(key, most, lines)
  local added = {}
  for _, line in ipairs(lines) do
    local id = redis.pcall('XADD', key, 'MAXLEN', '~', most, '*', unpack(line))
    if type(id) == 'table' then
      for _, before in ipairs(added) do redis.call('XDEL', key, before) end
      return nil, unadded(key, id)
    end
    added[#added + 1] = id
  end
  return added
end

local function is_type(key, wanted)
  local found = redis.call('TYPE', key)['ok']
  return found == 'none' or found == wanted
end

-- Returns the error that a protected call has caught.
local function failure(caught)
  return type(caught) == 'table' and caught or redis.error_reply('ERR ' .. tostring(caught))
end
