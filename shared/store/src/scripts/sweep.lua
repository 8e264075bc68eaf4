#!lua flags=no-writes
-- Looks which of many keys there is news of, for those that no hint told of.
--
-- KEYS  those that are waited for
-- ARGV  for each: the seq up to which its stream is known, or '' to look only whether the key is there
-- Gives the numbers of those that have an entry past that seq, are no stream, or are gone.

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
