-- Begins a session of a client at the hub: the newest wins, unless it is a second device that comes
-- back while the first is connected.
--
-- KEYS  1 client hash   2 bell of the client   3 the identity of the hub
-- ARGV  1 now in ms   2 the agent's version   3 its address   4 the hub's name
--       5 the process that comes, or '' if it does not say   6 'ws' or 'http'
--       7 what the keys of all hubs begin with   8 silence in ms after which an HTTP session is over
--       9 how many former processes are remembered   10 how long a bell is there, in ms
--       11 the first and last seq of the device's out stream and how many it ever took, as one text
--       12 when the client was registered, in ms, or 0
--       13 and 14 the epochs of its out stream and of its in stream, as it tells them, or 0
--       15 how many lives further than we know of those may be   16 an identity for a hub that has none
-- Gives {'begun', generation, the hub's identity} or {'refused', address of the one connected, since, refused so far,
--       1 if nobody was told of this one yet} or {'epoch-ahead', 'up' or 'down', the epoch known here}
--
-- A process that restarts draws another name and never uses the old one again. So one that was here
-- before, and comes back while another is connected, shows that there are two at the same time. One
-- that was never here may be the same device, restarted, and gets in at once.

local LIVES_UNMET = 4294967296

local now, instance, transport = digits(tonumber(ARGV[1])), ARGV[5], ARGV[6]
local known = redis.call('HMGET', KEYS[1], 'connected_since', 'last_seen', 'address', 'hub',
  'transport', 'instance', 'former', 'generation', 'in_epoch', 'out_epoch', 'registered_at')
local since, seen, address, hub = known[1], known[2], known[3], known[4]
local over, holder = known[5], known[6] or ''
local up, registered = count(known[9]), count(ARGV[12])
-- A client that was registered again begins anew, whatever was written in its name before.
local is_reset = registered > count(known[11])
if is_reset and up > 0 then up = up + 1 end
for _, told in ipairs({ { 'up', ARGV[13], up }, { 'down', ARGV[14], count(known[10]) } }) do
  -- Of a client that nothing is known of yet, whatever life it is in is the first.
  if count(told[2]) > (told[3] == 0 and LIVES_UNMET or told[3] + count(ARGV[15])) then
    return { 'epoch-ahead', told[1], digits(told[3]) }
  end
end

-- A connection ends with its hub at the latest; requests are over when none came for long.
local function is_live()
  if not since then return false end
  if over == 'http' then return math.abs(now - count(seen)) < count(ARGV[8]) end
  return hub and redis.call('EXISTS', ARGV[7] .. hub) == 1
end

-- Those who held the place before, the latest last; a mark says that an operator was told of it.
local former, is_former, is_told = {}, false, false
for mark, name in string.gmatch(known[7] or '', '(!?)(%x+)') do
  if name == instance then
    is_former, is_told = true, mark == '!'
  else
    former[#former + 1] = mark .. name
  end
end

local function ring(word)
  redis.call('SET', KEYS[2], word, 'PX', ARGV[10])
end

local live = is_live()
if live and is_former then
  former[#former + 1] = '!' .. instance
  -- Whoever holds that session makes sure that it does.
  ring('refused')
  redis.call('HSET', KEYS[1], 'former', table.concat(former, ' '), 'clone_address', ARGV[3],
    'clone_at', now)
  local refused = count(redis.call('HGET', KEYS[1], 'clones')) + 1
  redis.call('HSET', KEYS[1], 'clones', digits(refused))
  return {'refused', address or '', since, refused, is_told and 0 or 1}
end

if holder ~= '' and holder ~= instance then former[#former + 1] = holder end
while #former > count(ARGV[9]) do table.remove(former, 1) end
-- Its own hub tells the older session itself.
if live and (hub ~= ARGV[4] or over == 'http') then ring('ousted') end
-- Never one that was given out before, even where this Redis has gone back and forgotten it: two
-- sessions of one generation would both pass the fence.
local generation = digits(math.max(count(known[8]) + 1, tonumber(now)))
if is_reset then
  redis.call('HSET', KEYS[1], 'registered_at', digits(registered))
  if up > 0 then
    redis.call('HSET', KEYS[1], 'in_epoch', digits(up), 'in_seq', '0-0')
    redis.call('HDEL', KEYS[1], 'in_digest', 'in_seal', 'in_tally')
  end
end
redis.call('HSET', KEYS[1], 'up_epoch', ARGV[13], 'generation', generation, 'connected_since', now, 'last_seen', now,
  'agent_version', ARGV[2], 'address', ARGV[3], 'hub', ARGV[4], 'transport', transport,
  'instance', instance, 'former', table.concat(former, ' '), 'up_said', ARGV[11])
if redis.call('SET', KEYS[3], ARGV[16], 'NX') then return {'begun', tonumber(generation), ARGV[16]} end
return {'begun', tonumber(generation), redis.call('GET', KEYS[3])}
