-- audit keeps one record of what somebody changed, and drops some that are past
-- their time.
--
-- KEYS[1] the partition (the first)
-- ARGV    1 the record's place: its moment in thirteen digits of ms, "~", its id
--         2 ms to keep it   3 the record as JSON
local PLACES, RECORDS, UNTIL = P .. ':audit', P .. ':audit:r', P .. ':audit:u'
for _, gone in ipairs(call('ZRANGEBYSCORE', UNTIL, '-inf', now, 'LIMIT', 0, 100)) do
  call('ZREM', UNTIL, gone)
  call('ZREM', PLACES, gone)
  call('HDEL', RECORDS, gone)
end
local till = format('%.0f', now + ARGV[2])
if call('HSETNX', RECORDS, ARGV[1], till .. ' ' .. ARGV[3]) == 1 then
  call('ZADD', PLACES, 0, ARGV[1])
  call('ZADD', UNTIL, till, ARGV[1])
end
return 1
