-- fire claims due moments: each entry moves on, its history gets a line, and its
-- task is stored, or kept as pending, in this one step.
--
-- KEYS[1] partition 0
-- ARGV    name and token of the lock, then for each firing: id, version, due, next
--         due, when to look at it, not before which ms, the history's words JITTER MISSED BEAT, outcome,
--         error, task ("~": none), how many arguments follow, and those: a
--         publication when the outcome is "fired" (see publish in common.lua), the
--         firing to keep when it is "pending", else none
-- returns "!" alone when another leads, else for each: "m" there is no entry, "v"
--         and its version, "e" it is too early, or the line of its history
if not leads(ARGV[1], ARGV[2], true) then return { '!' } end

-- settle says what became of the task whose arguments begin at a.
local function settle(outcome, task, a)
  if outcome ~= 'fired' then return outcome, task end
  local answer, holder = publish(a)
  if answer == 's' then return 'fired', task end
  if answer == 'f' then return 'failed', '~', 'the key ' .. holder .. ' is not ours' end
  return 'duplicate', holder or task
end

local function claim_moment(a, args)
  local id, due, words, task = ARGV[a], ARGV[a + 2], ARGV[a + 6], ARGV[a + 9]
  local entry = attempt('HMGET', ENTRY .. id, 'version', 'next_due', 'fired', 'misfired', 'last_task', 'last_error')
  if not entry or not entry[1] then return 'm' end
  if entry[1] ~= ARGV[a + 1] or entry[2] ~= due then return 'v' .. entry[1] end
  if now < tonumber(ARGV[a + 5]) then return 'e' end
  local outcome, err, last_task, last_error = '', ARGV[a + 8], entry[5], entry[6]
  local hindrance
  outcome, task, hindrance = settle(ARGV[a + 7], task, args)
  err = hindrance or err
  local jitter, missed, beat = match(words, '^(%S+) (%S+) (%S+)$')
  local line = due .. ' ' .. micros .. ' ' .. outcome .. ' ' .. words .. ' ' .. task .. ' ' .. err
  if outcome == 'pending' then
    local member = due .. ' ' .. id
    call('ZADD', PENDING, call('HINCRBY', SCHEDULES, 'pending', 1), member)
    call('HSET', FIRINGS, member, id .. ' ' .. line .. '\n' .. ARGV[args])
    last_task = task
  elseif outcome == 'failed' then
    last_error = err
  elseif outcome == 'fired' or outcome == 'duplicate' then
    last_task, last_error = task, ''
  end
  call('HSET', ENTRY .. id, 'last_due', due, 'last_fired', micros, 'jitter', jitter, 'next_due', ARGV[a + 3], 'next_at', ARGV[a + 4],
    'fired', entry[3] + (outcome == 'fired' and 1 or 0), 'misfired', entry[4] + missed, 'last_task', last_task, 'last_error', last_error)
  look_at(id, ARGV[a + 4])
  keep(id, line)
  return line
end

local out, a = {}, 3
while a <= #ARGV do
  out[#out + 1] = claim_moment(a, a + 11)
  a = a + 11 + ARGV[a + 10]
end
write_ready()
write_journal()
call_touched()
tell_changes()
return out
