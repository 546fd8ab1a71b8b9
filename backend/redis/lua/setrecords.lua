-- setrecords writes records that were read and changed, if nobody else changed
-- them since.
--
-- KEYS[1] the partition
-- ARGV    for each: id, the version that was read ("": none), the record's JSON
--         ("": it is removed), the ms at which it goes (-1: never, -2: as
--         before), when its outbox was written in ms (0: it has none),
--         enqueuedAt in fifteen digits, if it is new, or ""
-- returns a letter for each: o done, c it was changed by somebody else, f its key
--         is not ours
local out, version = {}, nil
for a = 1, #ARGV, 6 do
  local id, read, json, till, outbox, enqueued = unpack(ARGV, a, a + 5)
  local key = P .. ':s:' .. id
  local old = attempt('GET', key)
  if old == nil then
    out[#out + 1] = 'f'
  elseif (old and match(old, '^r(%d+) ') or '') ~= read or not old and call('EXISTS', task_key(id)) == 1 then
    out[#out + 1] = 'c'
  else
    out[#out + 1] = 'o'
    if json == '' then
      call('DEL', key)
    else
      version = call('INCR', P .. ':version')
      local value = 'r' .. version .. ' ' .. json
      if till == '-1' then
        call('SET', key, value)
      elseif till == '-2' then
        call('SET', key, value, 'KEEPTTL')
      else
        call('SET', key, value, 'PXAT', till)
      end
    end
    if outbox ~= '0' and json ~= '' then
      call('ZADD', P .. ':s-outbox', outbox, id)
    else
      call('ZREM', P .. ':s-outbox', id)
    end
    if enqueued ~= '' then journal(enqueued, id) end
    change(id)
  end
end
write_journal()
tell_changes()
return concat(out)
