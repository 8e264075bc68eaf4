-- Shared functions: the state of a copy, in the field `in` of its hash.
--
-- One text has all of it, since it is read and written for each batch: "epoch seq added at digest seal tally".
-- Epoch and seq are the cursor. `added` counts the entries that were ever appended, and `at` is when, in ms. Digest
-- and seal are the origin's at the cursor, or '-'; tally is the origin's there, or '~'.

-- Returns epoch, seq, added and at; nothing for another text. Without a text, the copy is at its beginning.
local function parse_state(text)
  if not text then return 0, '0-0', 0, 0 end
  local epoch, seq, added, at = string.match(text, '^(%d+) (%d+%-%d+) (%d+) (%d+) %S+ %S+ %S+$')
  if seq then return count(epoch), seq, count(added), count(at) end
end

local function state_text(epoch, seq, added, at, digest, seal, tally)
  return table.concat({ digits(epoch), seq, digits(added), at, digest, seal, tally }, ' ')
end

-- Returns the state at the beginning of a later epoch.
local function reset_text(epoch, added, at)
  return state_text(epoch, '0-0', added, digits(at), '-', '-', '~')
end

