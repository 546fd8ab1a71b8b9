-- apply creates, changes and deletes entries of the scheduler: all of them, or
-- none when one is not as its change was made from.
--
-- KEYS[1] partition 0
-- ARGV    for each change: id, "d" delete or "s" set, version, last due moment,
--         next due moment, when to look at it, definition ("": as it is), and a
--         line for the history before and after the moment ("": none)
-- returns { "ok", the entry as it is, or was, for each }, or { "m", which change
--         has no entry }, or { "v", which change, the version there is }
for a = 1, #ARGV, 9 do
  local have = call('HMGET', ENTRY .. ARGV[a], 'version', 'last_due')
  local delete, version = ARGV[a + 1] == 'd', ARGV[a + 2]
  if not have[1] then
    if delete or version ~= '0' then return { 'm', (a - 1) / 9 } end
  elseif have[1] ~= version or not delete and have[2] ~= ARGV[a + 3] then
    return { 'v', (a - 1) / 9, tonumber(have[1]) }
  end
end

local out = { 'ok' }
for a = 1, #ARGV, 9 do
  local id, version = ARGV[a], tonumber(ARGV[a + 2])
  local key = ENTRY .. id
  if ARGV[a + 1] == 'd' then
    out[#out + 1] = call('HGETALL', key)
    call('DEL', key, HISTORY .. id)
    call('ZREM', ENTRIES, id)
    call('ZREM', DUES, id)
    -- Versions of an id are never used again.
    if version > tonumber(call('HGET', SCHEDULES, 'floor') or 0) then call('HSET', SCHEDULES, 'floor', version) end
  else
    if version == 0 then
      version = tonumber(call('HGET', SCHEDULES, 'floor') or 0)
      call('ZADD', ENTRIES, 0, id)
      call('HSET', key, 'last_due', 0, 'last_fired', 0, 'jitter', 0, 'fired', 0, 'misfired', 0, 'last_task', '', 'last_error', '')
    end
    call('HSET', key, 'version', version + 1, 'updated', micros, 'next_due', ARGV[a + 4], 'next_at', ARGV[a + 5])
    if ARGV[a + 6] ~= '' then call('HSET', key, 'definition', ARGV[a + 6]) end
    look_at(id, ARGV[a + 5])
    if ARGV[a + 8] ~= '' then
      local due = ARGV[a + 7]
      if due == '' then due = format('%.0f', now) end
      keep(id, due .. ' ' .. micros .. ' ' .. ARGV[a + 8])
    end
    out[#out + 1] = call('HGETALL', key)
  end
end
if #ARGV > 0 then
  call('HINCRBY', SCHEDULES, 'changes', 1)
  change('') -- who waits for schedules watches a task without an id
  tell_changes()
end
return out
