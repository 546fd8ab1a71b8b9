-- finish says what became of firings that were pending: they are pending no more,
-- and their history and their entry's marks say it too.
--
-- KEYS[1] partition 0
-- ARGV    name and token of the lock, then for each: id, due, outcome, task ("~":
--         none), error
-- returns 0 when another leads, else 1
if not leads(ARGV[1], ARGV[2], false) then return 0 end

-- rewrite puts the news into the line of the history that is pending.
local function rewrite(id, due, outcome, task, err)
  for at, line in ipairs(call('LRANGE', HISTORY .. id, 0, -1)) do
    local fired, words = match(line, '^' .. due .. ' (%d+) pending (%S+ %S+ %S+) ')
    if fired then
      call('LSET', HISTORY .. id, at - 1, concat({ due, fired, outcome, words, task, err }, ' '))
      return
    end
  end
end

for a = 3, #ARGV, 5 do
  local id, due, outcome, task, err = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3], ARGV[a + 4]
  local member, key = due .. ' ' .. id, ENTRY .. id
  local entry = call('HMGET', key, 'last_due', 'last_task')
  local claimed = match(call('HGET', FIRINGS, member) or '', '^%S+ %d+ %d+ pending %S+ %S+ %S+ (%S+)')
  if call('ZREM', PENDING, member) == 1 then
    call('HDEL', FIRINGS, member)
    -- An entry of that id that was made since knows nothing of this moment.
    if entry[1] and tonumber(entry[1]) >= tonumber(due) then
      if outcome == 'fired' then call('HINCRBY', key, 'fired', 1) end
      call('HSET', key, 'last_error', (outcome == 'fired' or outcome == 'duplicate') and '' or err)
      if entry[2] == claimed and outcome ~= 'unknown' then call('HSET', key, 'last_task', task == '~' and '' or task) end
      rewrite(id, due, outcome, task, err)
    end
  end
end
return 1
