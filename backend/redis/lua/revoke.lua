-- revoke cancels what nobody holds, and asks who holds the rest to stop.
--
-- KEYS[1] the partition
-- ARGV    for each: id, "1" to end its handler too, the reason as JSON, how long
--         to keep the status in ms
-- returns for each: "u" unknown, "l" too late, "c" cancelled, "a WORKER"

local function ask(id, r, terminate, reason, keep)
  local old = call('HGET', P .. ':rev', id)
  if old and sub(old, 1, 1) == '1' then terminate = '1' end
  call('HSET', P .. ':rev', id, terminate .. ' ' .. keep .. ' ' .. reason)
  flags(r, '', 'v')
  save(id, r)
  local news = call('HGET', P .. ':news', r[HOLDER]) or ''
  call('HSET', P .. ':news', r[HOLDER], news .. id .. ' ' .. r[EPOCH] .. ' ' .. terminate .. ' ' .. reason .. '\n')
  -- It goes when it is read, when its reader closes, or when the lease ends; and,
  -- if that one died and others settled what it held, an hour after the newest.
  call('PEXPIRE', P .. ':news', 3600000)
  local process, number = match(r[HOLDER], '^(%w+)%.(%d+)$')
  if process then tell_consumer(process, number) end
  return 'a ' .. r[WORKER]
end

-- take_out removes a waiting task from where it waits.
local function take_out(id, r)
  local queue, prio = r[QUEUE], r[PRIO]
  flags(r, 'l', '')
  if attempt('ZREM', P .. ':d:' .. queue, prio .. ':' .. id) == 1 then return end
  if attempt('ZREM', P .. ':b:' .. queue .. ':' .. prio, id) == 1 then return end
  count(queue .. ':g', 1) -- its entry stays in the list until that comes to its turn
end

local answers = {}
for a = 1, #ARGV, 4 do
  local id = ARGV[a]
  local v, line = attempt('GET', task_key(id)), call('HGET', RUN, id)
  local r = line and parse(line)
  local answer
  if not v then
    answer = 'u'
  elseif byte(v) ~= 119 then
    answer = 'l'
  elseif r and has(r, 'h') and not has(r, 'l') then
    answer = ask(id, r, ARGV[a + 1], ARGV[a + 2], ARGV[a + 3])
  else
    r = r or record_of(v)
    if r then
      take_out(id, r)
      cancel(id, v, r, ARGV[a + 2], tonumber(ARGV[a + 3]))
      answer = 'c'
    else
      answer = 'u'
    end
  end
  answers[#answers + 1] = answer
end
write_counts()
tell_changes()
return answers
