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
  local last = call('HGET', key, 'last_due')
  if call('ZREM', PENDING, member) == 1 then
    call('HDEL', FIRINGS, member)
    -- An entry of that id that was made since knows nothing of this moment.
    if last and tonumber(last) >= tonumber(due) then
      if outcome == 'fired' then call('HINCRBY', key, 'fired', 1) end
      if outcome == 'fired' or outcome == 'duplicate' then
        call('HSET', key, 'last_task', task == '~' and '' or task, 'last_error', '')
      else
        call('HSET', key, 'last_error', err)
      end
      rewrite(id, due, outcome, task, err)
    end
  end
end
return 1
