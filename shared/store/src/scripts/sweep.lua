#!lua flags=no-writes
-- Finds which of many keys have changed, for changes without a hint.
--
-- KEYS  the watched keys
-- ARGV  for each: the seq up to which its stream was read, or '' to check only whether the key exists
-- Returns the indices of those that have an entry past that seq, are not a stream, or no longer exist.

local call, pcall, news = redis.call, redis.pcall, {}
for at, key in ipairs(KEYS) do
  local known, has_news = ARGV[at], nil
  if known == '' then
    has_news = call('EXISTS', key) == 0
  else
    local found = pcall('XRANGE', key, '(' .. known, '+', 'COUNT', 1)
    has_news = found['err'] or found[1]
  end
  if has_news then news[#news + 1] = at end
end
return news
