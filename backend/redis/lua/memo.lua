-- memo puts a value in the place of the one that is expected.
--
-- KEYS[1] the partition
-- ARGV    1 key   2 "1" if a value is expected, else "0"   3 that value   4 "1"
--         if there is a new one, else "0"   5 that value   6 ms to keep it
-- returns what is there afterwards; "" for nothing
local key = P .. ':memo:' .. ARGV[1]
local there = call('GET', key)
if ARGV[2] == '1' and there ~= ARGV[3] or ARGV[2] == '0' and there then return there or '' end
if ARGV[4] == '0' then
  call('DEL', key)
  return ''
end
call('SET', key, ARGV[5], 'PX', ARGV[6])
return ARGV[5]
