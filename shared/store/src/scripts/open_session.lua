-- Opens a session of a client at the hub. The newest session wins, unless it is of a second device that
-- reconnects while the first is connected.
--
-- KEYS  1 client hash   2 bell of the client   3 the identity of the hub   4 the key of the hub named in 7
-- ARGV  1 now in ms   2 the agent's version   3 its address   4 the hub's name
--       5 the agent process, or '' if it is unknown   6 'ws' or 'http'
--       7 the hub that is assumed to have the client's last session   8 idle time in ms after which an HTTP session ends
--       9 number of former processes to record   10 lifetime of a bell in ms
--       11 the first and last seq of the device's out stream and the number of entries added, as one text
--       12 when the client was registered, in ms, or 0
--       13 and 14 the epochs of its out stream and of its in stream, from its HELLO, or 0
--       15 how many epochs those may be ahead   16 an identity for a hub that has none
-- Returns {'begun', generation, the hub's identity} or {'refused', address of the connected device, since,
--       refused so far, 1 if this process was not refused before} or {'epoch-ahead', 'up' or 'down', the epoch known here}
--       or, having changed nothing, {'hub', the hub that has the client's last session}
--
-- A process that restarts draws another instance ID and never uses the old one again. So a process that was
-- connected before, and reconnects while another is connected, proves that there are two devices. A new process
-- may be the same device, restarted, and is accepted at once.

local EPOCHS_AHEAD_MAX_OF_NEW_CLIENT = 4294967296

local now, instance, transport = digits(tonumber(ARGV[1])), ARGV[5], ARGV[6]
local known = redis.call('HMGET', KEYS[1], 'connected_since', 'last_seen', 'address', 'hub',
  'transport', 'instance', 'former', 'generation', 'in', 'out_epoch', 'registered_at')
local since, seen, address, hub = known[1], known[2], known[3], known[4]
local over, holder = known[5], known[6] or ''
local up, _, added, appended_at = parse_state(known[9])
-- A batch is refused then, with the mend.
if not up then up, added, appended_at = 0, 0, 0 end
local registered = count(ARGV[12])
-- A client that was registered again starts from the beginning, whatever was stored for it before.
local is_reset = registered > count(known[11])
if is_reset and up > 0 then up = up + 1 end
for _, told in ipairs({ { 'up', ARGV[13], up }, { 'down', ARGV[14], count(known[10]) } }) do
  -- An unknown client may be in any epoch, within a bound.
  if count(told[2]) > (told[3] == 0 and EPOCHS_AHEAD_MAX_OF_NEW_CLIENT or told[3] + count(ARGV[15])) then
    return { 'epoch-ahead', told[1], digits(told[3]) }
  end
end

if since and over ~= 'http' and hub and hub ~= ARGV[7] then return { 'hub', hub } end

-- A WebSocket session ends with its hub at the latest; an HTTP session ends after its idle time.
local function is_live()
  if not since then return false end
  if over == 'http' then return math.abs(now - math.max(count(seen), appended_at)) < count(ARGV[8]) end
  return hub and redis.call('EXISTS', KEYS[4]) == 1
end

-- The former processes, the latest last. A mark says that the process was refused before.
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
  -- The hub with that session checks that it is still connected.
  ring('refused')
  redis.call('HSET', KEYS[1], 'former', table.concat(former, ' '), 'clone_address', ARGV[3],
    'clone_at', now)
  local refused = count(redis.call('HGET', KEYS[1], 'clones')) + 1
  redis.call('HSET', KEYS[1], 'clones', digits(refused))
  return {'refused', address or '', since, refused, is_told and 0 or 1}
end

if holder ~= '' and holder ~= instance then former[#former + 1] = holder end
while #former > count(ARGV[9]) do table.remove(former, 1) end
-- The same hub ends the older session without a bell.
if live and (hub ~= ARGV[4] or over == 'http') then ring('ousted') end
-- A generation is never used twice, even if this Redis has gone back: two sessions of one generation would both
-- pass the fence.
local generation = digits(math.max(count(known[8]) + 1, tonumber(now)))
if is_reset then
  redis.call('HSET', KEYS[1], 'registered_at', digits(registered))
  if up > 0 then redis.call('HSET', KEYS[1], 'in', reset_text(up, added, appended_at)) end
end
redis.call('HSET', KEYS[1], 'up_epoch', ARGV[13], 'generation', generation, 'connected_since', now, 'last_seen', now,
  'agent_version', ARGV[2], 'address', ARGV[3], 'hub', ARGV[4], 'transport', transport,
  'instance', instance, 'former', table.concat(former, ' '), 'up_said', ARGV[11])
if redis.call('SET', KEYS[3], ARGV[16], 'NX') then return {'begun', tonumber(generation), ARGV[16]} end
return {'begun', tonumber(generation), redis.call('GET', KEYS[3])}
