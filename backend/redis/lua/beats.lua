-- beats lists the heartbeats that are fresh.
--
-- KEYS[1] the partition (the first)
-- returns "µs JSON" of each
local workers = call('ZRANGEBYSCORE', P .. ':fresh', '(' .. now, '+inf')
local out = {}
for i = 1, #workers, 1000 do
  for _, beat in ipairs(call('HMGET', P .. ':beats', unpack(workers, i, min(i + 999, #workers)))) do
    if beat then out[#out + 1] = beat end
  end
end
return out
