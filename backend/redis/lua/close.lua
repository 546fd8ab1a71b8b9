-- close gives back what a consumer holds and has not started, and forgets it.
--
-- KEYS[1] the partition
-- ARGV    1 the consumer's name   2 its subscription   3 "1": it was called and
--         did not look, so another is called instead   then id and epoch of each
--         delivery that it holds
local consumer, whole = ARGV[1], ARGV[2]
for a = 4, #ARGV, 2 do
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
call('ZREM', IDLE, consumer .. ' ' .. whole)
call('HDEL', KEEPERS, consumer)
call('HDEL', P .. ':news', consumer)
if ARGV[3] == '1' then
  for _, queue in ipairs(call('HKEYS', FILLED)) do
    if not touched[queue] and serves(whole, queue) then call_for(queue, 1) end
  end
end
write_counts()
call_touched()
tell_changes()
return 1
