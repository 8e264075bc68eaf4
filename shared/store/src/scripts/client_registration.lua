-- Reading a client's hash, which operators may also write by hand.

-- The largest whole number that Lua counts exactly. A time in ms is far below it.
local COUNT_MAX = 9007199254740991

-- Returns whether the field `disabled` disables a client.
local function is_disabled(value)
  return value and value ~= '' and value ~= '0'
end

-- Parses a whole number from 0 to COUNT_MAX; returns `otherwise` for any other value.
local function count_of(value, otherwise)
  if type(value) ~= 'string' or not value:match('^%d+$') or #value > 16 then
    return otherwise
  end
  local number = tonumber(value)
  return number <= COUNT_MAX and number or otherwise
end

