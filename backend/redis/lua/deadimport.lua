-- deadimport puts dead letters back that were exported.
--
-- KEYS[1] the partition
-- ARGV    for each: id, queue, ms of its death, epoch, ms of enqueuedAt in
--         fifteen digits, value, number of errors, errors, oldest first
-- returns a letter for each: s stored, e exists
local out, a = {}, 1
while a <= #ARGV do
  local id, queue, ms, epoch, enqueued, v, n = unpack(ARGV, a, a + 6)
  a = a + 7
  if call('EXISTS', task_key(id), P .. ':s:' .. id) > 0 then
    out[#out + 1] = 'e'
  else
    call('SET', task_key(id), v)
    call('ZADD', P .. ':dead', ms, id)
    for i = a, a + n - 1 do call('RPUSH', P .. ':e:' .. id, ARGV[i]) end
    if tonumber(epoch) > tonumber(call('GET', P .. ':epoch') or 0) then call('SET', P .. ':epoch', epoch) end
    count(queue .. ':x', 1)
    journal(enqueued, id)
    change(id)
    out[#out + 1] = 's'
  end
  a = a + n
end
write_counts()
write_journal()
tell_changes()
return concat(out)
