-- What several scripts need: how far an origin stream reaches, and the group of ours in it.
--
-- The group is the proof that a stream is the one that was given out from: DEL, RENAME, EXPIRE and
-- FLUSHALL take it away with the stream, RESTORE brings an older one back, and each read moves it in the
-- same step. Its position stands in the state hash as well; where the two differ, one of them is not
-- what it was.

local GROUP = 'spoke'

-- Whether a stream that reaches so far is the one that was given out up to there, as the hash says.
local function is_same(found, given)
  return (given or '') == found[6]
end

-- Pairs of a flat list, by name.
local function named(list)
  local found = {}
  for at = 1, #list, 2 do found[list[at]] = list[at + 1] end
  return found
end

-- {first, last, deleted, length, added, position of the group or ''}; XINFO's own answer would bring the
-- first and the last entry along. The second is an error, if there is one.
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
