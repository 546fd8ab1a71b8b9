-- beat keeps a worker's heartbeat and tells it to those who follow, unless a
-- newer one is there.
--
-- KEYS[1] the partition (the first)
-- ARGV    1 worker   2 its moment in µs   3 ms to keep it   4 the heartbeat as
--         JSON   5 "1": the worker has stopped   6 the channel of those
--         who follow
local BEATS, FRESH = P .. ':beats', P .. ':fresh'
local worker, at = ARGV[1], ARGV[2]
for _, gone in ipairs(call('ZRANGEBYSCORE', FRESH, '-inf', now)) do
  call('ZREM', FRESH, gone)
  call('HDEL', BEATS, gone)
end
local old = call('HGET', BEATS, worker)
if old and tonumber(match(old, '^%d+')) > tonumber(at) then return 0 end
if ARGV[5] == '1' then
  call('HDEL', BEATS, worker)
  call('ZREM', FRESH, worker)
else
  call('HSET', BEATS, worker, at .. ' ' .. ARGV[4])
  call('ZADD', FRESH, format('%.0f', now + ARGV[3]), worker)
end
call('PUBLISH', ARGV[6], ARGV[4])
return 1
