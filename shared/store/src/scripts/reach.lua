-- Shared functions: the extent of an origin stream, and Spoke's consumer group in it.
--
-- The group proves that a stream is the one from which entries were delivered: DEL, RENAME, EXPIRE and FLUSHALL
-- remove it with the stream, RESTORE brings an older one back, and each read moves it in the same step. Its
-- position is in the state hash as well; if the two differ, one of them was replaced.

local GROUP = 'spoke'

-- Returns whether the group in a stream of this extent stands where the hash says.
local function is_same(found, given)
  return (given or '') == found[6]
end

-- Returns the pairs of a flat list, by name.
local function named(list)
  local found = {}
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end

-- Returns {first, last, deleted, length, added, position of the group or ''}, without the first and the last
-- entry that XINFO returns, and an error, if there is one.
local function reach(stream)
  local info = redis.pcall('XINFO', 'STREAM', stream)
  if info['err'] then
    if not string.find(info['err'], 'no such key', 1, true) then return nil, info end
    return { '0-0', '0-0', '0-0', 0, 0, '' }
  end
  info = named(info)
  local position = ''
  if info['groups'] > 0 then
    for _, group in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      group = named(group)
      if group['name'] == GROUP then position = group['last-delivered-id'] end
    end
  end
  return { info['first-entry'] and info['first-entry'][1] or '0-0', info['last-generated-id'],
    info['max-deleted-entry-id'], info['length'], info['entries-added'], position }
end
