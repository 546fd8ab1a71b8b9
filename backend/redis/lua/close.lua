-- close takes a consumer off those who wait, and passes on a call that it does
-- not answer. When it goes for good, what it holds and has not started is given
-- back.
--
-- KEYS[1] the partition
-- ARGV    1 the consumer's name   2 its subscription   3 "2": it was called and
--         did not look, "1": it waited   4 "1": it goes for good   then id and
--         epoch of each delivery that it holds
local consumer, whole = ARGV[1], ARGV[2]
for a = 5, #ARGV, 2 do
  local id = ARGV[a]
  local line = call('HGET', RUN, id)
  local r = line and parse(line)
  if r and r[EPOCH] == ARGV[a + 1] and has(r, 'h') and not find(r[FLAGS], '[sl]') then
    call('ZREM', LEASE, id)
    count(r[QUEUE] .. ':l', -1)
    if has(r, 'v') then
      cancel_revoked(id, r)
    else
      flags(r, 'hR', '')
      r[HOLDER], r[SINCE] = '-', now
      save(id, r)
      ready_at(r[QUEUE], r[PRIO], id, r[PLACE])
      change(id)
    end
  end
end
local waited = call('ZREM', IDLE, consumer .. ' ' .. whole) == 1
call('HDEL', KEEPERS, consumer)
if ARGV[4] == '1' then call('HDEL', P .. ':news', consumer) end
if ARGV[3] == '2' or ARGV[3] == '1' and not waited then
  for _, queue in ipairs(call('HKEYS', FILLED)) do
    if not touched[queue] and serves(whole, queue) then call_for(queue, 1) end
  end
end
write_counts()
call_touched()
tell_changes()
return 1
