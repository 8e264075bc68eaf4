#!lua flags=allow-oom
-- Writes down what is acknowledged and takes it out of the stream, also where Redis is full: this is
-- what makes room there.
-- KEYS: state, stream. ARGV: acknowledged seq, the first seq that stays ('': nothing is taken out).
redis.call('HSET', KEYS[1], 'out_acked', ARGV[1])
if ARGV[2] ~= '' then
  redis.call('XTRIM', KEYS[2], 'MINID', ARGV[2])
end
