-- The functions that most scripts need. The server makes them anew whenever it runs
-- one of them, which costs more than what a short script does: those only begin.
--
-- include begin
local RUN, LEASE, DUE, FILLED = P .. ':run', P .. ':lease', P .. ':due', P .. ':filled'

-- task_key is the key of a task: its id after the tag, which takes less memory than
-- any longer name would. All other keys have a colon there, so an id that begins
-- with one has another key.
local function task_key(id) return byte(id) == 58 and P .. ':t:' .. id or P .. id end

-- attempt is call for a key of one queue or of one task. A key of another type,
-- which is none of ours, stops nothing that has to do with others: it is noted,
-- and the answer is nil.
local foreign

local function attempt(command, key, ...)
  local out = redis.pcall(command, key, ...)
  if type(out) ~= 'table' or not out.err then return out end
  if not find(out.err, 'WRONGTYPE', 1, true) then return call(command, key, ...) end
  foreign = foreign or key
end

-- Fields of a run record, which is one line of words. See docs/redis.md.
local EPOCH, PLACE, PRIO, QUEUE, LENGTH, FLAGS, ATTEMPT, BASE, STARTS, REPLAYS, SINCE, NOTBEFORE, STARTED, REPLAYED,
  HOLDER, WORKER, PROGRESS = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17

local function parse(line)
  local r = { match(line,
    '^(%d+)[ =](%d+) (%d) (%S+) (%d+) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%d+) (%S+) (%S+) ?(.*)$') }
  if r[1] then return r end
end

local function has(r, flag) return find(r[FLAGS], flag, 1, true) end

-- flags clears the first set of flags and sets the second.
local function flags(r, off, on)
  local f = r[FLAGS]
  if off ~= '' then f = gsub(f, '[' .. off .. ']', '') end
  for c in gmatch(on, '.') do
    if not find(f, c, 1, true) then f = f .. c end
  end
  r[FLAGS] = f
end

local function save(id, r) call('HSET', RUN, id, concat(r, ' ')) end

-- each calls fn with at most 4000 of the list's elements at a time: Lua's stack
-- holds 8000.
local function each(list, fn)
  for i = 1, #list, 4000 do fn(unpack(list, i, min(i + 3999, #list))) end
end

-- Counters that are no key's length: leased (l), dead (x), and entries of lists
-- whose task is gone (g). Written once a script.
local deltas = {}
local function count(field, n) deltas[field] = (deltas[field] or 0) + n end

local function write_counts()
  for field, n in pairs(deltas) do
    if n ~= 0 and call('HINCRBY', P .. ':count', field, n) == 0 then call('HDEL', P .. ':count', field) end
  end
  deltas = {}
end

-- The marks of a queue's field in FILLED: which of its lists (digit) and of its
-- sets of returned tasks (letter) may hold something, in the order to serve.
local MARKS = 'j9i8h7g6f5e4d3c2b1a0'

local function back_mark(prio) return char(97 + prio) end

local function fill(queue, mark)
  local old = call('HGET', FILLED, queue)
  if not old then
    call('HSET', FILLED, queue, mark)
  elseif not find(old, mark, 1, true) then
    call('HSET', FILLED, queue, (gsub(MARKS, '.', function(m)
      if m ~= mark and not find(old, m, 1, true) then return '' end
    end)))
  end
end

-- Tasks that become ready: at the end of their line, or at their old place.
-- Written with write_ready; whom to call for them is known at the script's end.
local lines, touched = {}, {}

local function ready(queue, prio, id)
  local key = queue .. ':' .. prio
  local line = lines[key]
  if not line then
    line = { queue = queue, prio = prio }
    lines[key] = line
  end
  line[#line + 1] = id
  touched[queue] = (touched[queue] or 0) + 1
end

local function ready_at(queue, prio, id, place)
  if not attempt('ZADD', P .. ':b:' .. queue .. ':' .. prio, place, id) then return ready(queue, prio, id) end
  fill(queue, back_mark(prio))
  touched[queue] = (touched[queue] or 0) + 1
end

-- delays reports whether tasks of a queue can be delayed: the key is ours.
local function delays(queue) return attempt('ZCARD', P .. ':d:' .. queue) end

-- delay makes a task wait for its moment.
local function delay(queue, prio, id, at)
  call('ZADD', P .. ':d:' .. queue, at, prio .. ':' .. id)
  call('ZADD', DUE, 'LT', at, queue)
end

-- park makes tasks wait elsewhere for a while whose line is not ours: until
-- somebody has removed that key.
local PARKED = 5000

local function park(line)
  local queue, prio = line.queue, line.prio
  local whole = delays(queue)
  for i = 1, #line do
    if whole then
      delay(queue, prio, line[i], now + PARKED)
    else
      call('ZADD', P .. ':b:' .. queue .. ':' .. prio, i, line[i])
    end
  end
  if not whole then fill(queue, back_mark(prio)) end
end

local function write_ready()
  for key, line in pairs(lines) do
    local ours = true
    each(line, function(...) ours = ours and attempt('RPUSH', P .. ':q:' .. key, ...) end)
    if ours then fill(line.queue, line.prio) else park(line) end
  end
  lines = {}
end

-- Waiting consumers. A member of the set is "PROCESS.NUMBER ENTRIES", its score
-- the moment until which it is believed. Whoever is called leaves the set.
local function serves(entries, queue)
  for entry in gmatch(entries, '[^,]+') do
    if entry == queue then return true end
    if find(entry, '*', 1, true) and
      match(queue, '^' .. gsub(gsub(entry, '[%-%.]', '%%%0'), '%*', '.*') .. '$') then
      return true
    end
  end
  return false
end

local function tell(process, message)
  return call('PUBLISH', match(P, '^{(.*):%d+}$') .. ':p:' .. process, message)
end

-- tell_consumer has a consumer look again. In a Cluster the subscriber may be at
-- another node, which the count of PUBLISH does not see; such processes have
-- names that begin with k.
local function tell_consumer(process, number)
  return tell(process, 'c ' .. number .. ' ' .. match(P, '(%d+)}$')) > 0 or byte(process) == 107
end

local IDLE, KEEPERS = P .. ':idle', P .. ':keepers'

-- Those who keep the time for all look every LOOK, and every REST while nothing is
-- due, and no lease ends, for FAR: should they die meanwhile, others have noticed
-- before. A field of KEEPERS says until when one is believed to do so, which is
-- SLACK longer than until its next look.
local LOOK, REST, FAR, SLACK = 1000, 5000, 10000, 1500

local function call_for(queue, n, except)
  local from = 0
  while n > 0 do
    local list = call('ZRANGE', IDLE, from, from + 15, 'WITHSCORES')
    if #list == 0 or from == 0 and call('HEXISTS', P .. ':pauses', queue) == 1 then return end
    for i = 1, #list, 2 do
      local process, number, entries = match(list[i], '^(%w+)%.(%d+) (.*)$')
      if not process or tonumber(list[i + 1]) < now then
        call('ZREM', IDLE, list[i])
      elseif process .. '.' .. number ~= except and serves(entries, queue) then
        call('ZREM', IDLE, list[i])
        if tell_consumer(process, number) then n = n - 1 end
        if n == 0 then return end
      else
        from = from + 1
      end
    end
    if #list < 32 then return end
  end
end

-- call_keeper has somebody know of a moment at which something is due, or a lease
-- ends: unless one of those who keep the time looks before it, one of them is woken.
-- Whoever looks then sees all that this script does.
local looks -- when they look; nil: nobody has asked

local function call_keeper(queue, at, except)
  if at >= (looks or now + REST) + 100 then return end
  local keepers = call('HGETALL', KEEPERS)
  for i = 1, #keepers, 2 do
    local till = tonumber(keepers[i + 1])
    if keepers[i] ~= except and till and till >= now then looks = min(looks or till, till - SLACK) end
  end
  if looks and at >= looks + 100 then return end
  looks = 0
  for i = 1, #keepers, 2 do
    local process, number = match(keepers[i], '^(%w+)%.(%d+)$')
    if process and keepers[i] ~= except and tonumber(keepers[i + 1]) >= now then
      if tell_consumer(process, number) then return call('HSET', KEEPERS, keepers[i], now + SLACK) end
      call('HDEL', KEEPERS, keepers[i]) -- it is gone: whoever is called in its stead shall keep the time
    end
  end
  call_for(queue, 1, except)
end

-- call_touched calls consumers for what became ready; where some of it may have
-- been taken since, for what is so still.
local function call_touched(except, taken)
  for queue, n in pairs(touched) do
    if not taken or call('HEXISTS', FILLED, queue) == 1 then call_for(queue, min(8, floor((n + 63) / 64)), except) end
  end
end

-- Changes of tasks, told to the processes where somebody watches them. A field
-- of the hash is "PROCESS=UNTIL" words.
local WATCH, watched, changed = P .. ':watch', nil, {}

local function change(id)
  if watched == nil then watched = call('EXISTS', WATCH) == 1 end
  if watched then changed[#changed + 1] = id end
end

local function tell_changes()
  if #changed == 0 then return end
  each(changed, function(...)
    local ids = { ... }
    local words = call('HMGET', WATCH, ...)
    for i = 1, #ids do
      for process, till in gmatch(words[i] or '', '(%w+)=(%d+)') do
        if tonumber(till) > now then tell(process, 'w ' .. ids[i]) end
      end
    end
  end)
end

-- Task values: "w" FLAG NOW " " ENQUEUED " " PRIO QUEUE LEASE ATTEMPT NOTBEFORE
-- ARGSAT ARGSLEN NEWLINE ENVELOPE. FLAG is "@" plus the sum of these:
local UNUSUAL, ERRORS, CLAIMS, DELAYED, BARE, CUT = 1, 2, 4, 8, 16, 32

local function flagged(v, bit) return floor((byte(v, 2) - 64) / bit) % 2 == 1 end

local function head(v)
  local prio, queue, lease, attempt, notbefore, at, len =
    match(v, '^w.%d+ %d+ (%d) (%S+) (%d+) (%d+) (%d+) (%d+) (%d+)\n')
  return prio, queue, lease, attempt, notbefore, at, len
end

local function set_flag(id, v, bit)
  if not flagged(v, bit) then call('SETRANGE', task_key(id), 1, char(byte(v, 2) + bit)) end
end

-- record_of makes the run record of a task that has none.
local function record_of(v)
  local prio, queue, lease, attempt, notbefore = head(v)
  if not prio then return end
  if not flagged(v, DELAYED) then notbefore = 0 end
  return { 0, 0, prio, queue, lease, '.', attempt, 0, 0, 0, 0, notbefore, 0, 0, '-', '-', '' }
end

-- send leaves something for another partition to do: whoever wrote it does it,
-- or, two seconds later, whoever receives here.
local function send(entry) call('ZADD', P .. ':outbox', now, entry) end

local function release(id, key)
  local value = attempt('GET', P .. ':claim:' .. key)
  if value and match(value, '^%S*') == id then call('DEL', P .. ':claim:' .. key) end -- see claims.lua
end

-- The claims of a task that have no time of their own end with it.
local function end_claims(id, v)
  if not flagged(v, CLAIMS) then return end
  for _, entry in ipairs(attempt('LRANGE', P .. ':c:' .. id, 0, -1) or {}) do
    local partition, key = match(entry, '^(%d*) (.*)$')
    if partition == '' or partition == match(P, '(%d+)}$') then release(id, key) elseif key then send('r ' .. id .. ' ' .. key) end
  end
  call('DEL', P .. ':c:' .. id)
end

-- trim cuts args of more than one KiB out of a value whose task has ended, and all
-- of them where they are not to be kept.
local function trim(v)
  if byte(v) ~= 119 then return v end
  local keep = 1024
  if flagged(v, BARE) then keep = 0 elseif #v < 1600 then return v end
  local _, _, _, _, _, at, len = head(v)
  len = tonumber(len or 0)
  if len <= keep or flagged(v, CUT) then return v end
  local json = find(v, '\n', 1, true) + at
  return 'w' .. char(byte(v, 2) + CUT) .. sub(v, 3, json + keep) .. sub(v, json + len + 1)
end

-- finish writes the value of a task that ended as succeeded (s), cancelled (c)
-- or dead (x): KIND FLAG and the body, which is its length in seven digits and
-- the outcome, then the run record's line, if FLAG has 1, then what was there.
local function finish(id, v, kind, body, line, keep, hidden)
  local flag = (line and 1 or 0) + (hidden and 2 or 0)
  v = kind .. char(64 + flag) .. body .. (line and line .. '\n' or '') .. v
  if keep > 0 then
    call('SET', task_key(id), v, 'PX', keep)
  else
    call('SET', task_key(id), v)
  end
end

-- forget removes all that is kept of a task beside its run record.
local function forget(id, v)
  call('DEL', task_key(id))
  if flagged(v, ERRORS) then call('DEL', P .. ':e:' .. id) end
  end_claims(id, v)
end

-- conclude ends a task that is nowhere any more, and removes its run record.
local function conclude(id, v, kind, body, r, keep)
  call('HDEL', RUN, id)
  if has(r, 'v') then call('HDEL', P .. ':rev', id) end
  change(id)
  if keep == 0 then return forget(id, v) end
  local kept = tonumber(r[REPLAYS]) > 0 or r[EPOCH] ~= 0 and kind == 'c'
  finish(id, trim(v), kind, body, kept and concat(r, ' '), keep)
  if keep > 0 and flagged(v, ERRORS) then call('PEXPIRE', P .. ':e:' .. id, keep) end
  if flagged(v, CLAIMS) then call('PEXPIRE', P .. ':c:' .. id, keep > 0 and keep or 1000) end
end

-- cancel ends a task that nobody holds, with a reason that is JSON already.
local function cancel(id, v, r, reason, keep)
  end_claims(id, v)
  local outcome = '{"endedMs":' .. now .. ',"reason":' .. reason .. '}'
  conclude(id, v, 'c', format('%07d', #outcome) .. outcome, r, keep)
end

-- cancel_revoked ends a revoked task whose holder no longer holds it.
local function cancel_revoked(id, r)
  local v = attempt('GET', task_key(id))
  local keep, reason = match(call('HGET', P .. ':rev', id) or '', '^%S+ (%S+) (.*)$')
  if not v then
    call('HDEL', RUN, id)
  else
    cancel(id, v, r, reason or '"revoked"', tonumber(keep or 0))
  end
end

-- publish stores the task whose arguments begin at ARGV[a]: id, QUEUE:PRIO, the
-- value, and "" or "FLAG DUE CLAIMS" (and " o" for one of an outbox) followed by a key and a time for each
-- claim (rN T BY: it is taken already, in partition N, for a task that is stored by
-- that ms, T is 0 if it has no time of its own). It returns what became of it, the
-- holder of a claim or the key that is not ours, and where the next one's arguments
-- begin.
--
-- Lua hashes every byte of every string it makes, so a value is handed on as it
-- came, wherever that can be.
local days = {}

-- journal notes a task for List. ms is its enqueuedAt in fifteen digits; what
-- is written is the last five of them and the id, so that List can put a list in
-- order without reading its tasks. An id that begins with the minute of that moment,
-- as those that were made then do, is written with "=" in place of that beginning.
local function journal(ms, id)
  local second = sub(ms, 1, 12)
  local list = days[second]
  if not list then
    list = {}
    days[second] = list
  end
  if sub(id, 1, 9) == format('%08x-', floor(ms / 65536)) then id = '=' .. sub(id, 10) end
  list[#list + 1] = sub(ms, 11) .. id
end

local function claimed(id, a, n)
  for i = a, a + 2 * n - 2, 2 do
    local key = P .. ':claim:' .. ARGV[i]
    local holder = sub(ARGV[i + 1], 1, 1) ~= 'r' and call('GET', key)
    if holder and holder ~= id then
      if call('PTTL', key) ~= -1 or call('EXISTS', task_key(holder)) == 1 then return holder end
    elseif holder and call('PTTL', key) ~= -1 then
      return holder
    end
  end
end

-- stranger returns a key that is not ours and that a publication needs, whose
-- claims begin at ARGV[a].
local function stranger(queue, due, a, n)
  if due > now and not delays(queue) then return P .. ':d:' .. queue end
  for i = a, a + 2 * n - 2, 2 do
    if attempt('GET', P .. ':claim:' .. ARGV[i]) == nil then return P .. ':claim:' .. ARGV[i] end
  end
end

-- overdue reports whether a claim that is taken already may have been given to others.
local function overdue(a, n)
  for i = a, a + 2 * n - 2, 2 do
    local by = tonumber(match(ARGV[i + 1], '^r%d+ %d (%d+)$') or 0)
    if by > 0 and now > by then return true end
  end
end

local function claim(id, a, n)
  local bit = 0
  for i = a, a + 2 * n - 2, 2 do
    local ms = ARGV[i + 1]
    local partition, timed = match(ms, '^r(%d+) (%d)')
    if partition then -- it is taken already, where its key lies
      send('k ' .. id .. ' ' .. timed .. ' ' .. ARGV[i])
      if timed == '0' then
        attempt('RPUSH', P .. ':c:' .. id, partition .. ' ' .. ARGV[i])
        bit = CLAIMS
      end
    elseif ms == '0' then
      call('SET', P .. ':claim:' .. ARGV[i], id)
      attempt('RPUSH', P .. ':c:' .. id, ' ' .. ARGV[i])
      bit = CLAIMS
    else
      call('SET', P .. ':claim:' .. ARGV[i], id, 'PX', ms)
    end
  end
  return bit
end

-- mark_once remembers that what was to be done for a publication of an outbox is
-- done: it may come again, when nothing is known of the task any more. Whoever has
-- removed it from the outbox has the mark end soon.
local function mark_once(id) call('SET', P .. ':once:' .. id, '', 'PX', 86400000) end

local function publish(a)
  local id, line, value, extra = ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
  local queue, prio, later = sub(line, 1, -3), sub(line, -1), false
  if extra == '' then
    if not call('SET', task_key(id), value, 'NX') then return 'e', nil, a + 4 end
  else
    local flag, due, n, once = match(extra, '^(%d+) (%d+) (%d+)( ?o?)$')
    local from = a + 4
    a = a + 2 * n
    if call('EXISTS', task_key(id)) == 1 then
      if once ~= '' then mark_once(id) end
      return 'e', nil, a + 4
    end
    if once ~= '' and call('EXISTS', P .. ':once:' .. id) == 1 then return 'e', nil, a + 4 end
    if overdue(from, n) then return 't', nil, a + 4 end
    local other = stranger(queue, tonumber(due), from, n)
    if other then return 'f', other, a + 4 end
    local holder = claimed(id, from, n)
    if holder then
      if once ~= '' then mark_once(id) end
      return 'd', holder, a + 4
    end
    if once ~= '' then mark_once(id) end
    flag, due = flag + claim(id, from, n), tonumber(due)
    later = due > now
    if later then
      flag = flag + DELAYED
      delay(queue, prio, id, due)
      call_keeper(queue, due)
    end
    call('SET', task_key(id), 'w' .. char(64 + flag) .. sub(value, 3))
  end
  journal(sub(value, 17, 31), id)
  change(id)
  if not later then ready(queue, prio, id) end
  return 's', nil, a + 4
end

-- begin_journal enters a new list; its name has the second with which it begins.
local function begin_journal(name)
  call('ZADD', P .. ':journal', tonumber(sub(name, 2)), name)
  call('ZADD', P .. ':sweep', now + 120000, name)
end

-- write_journal adds what was published to the lists that List reads: one a
-- minute of enqueuedAt, and once that is long, one a second.
local function write_journal()
  for second, ids in pairs(days) do
    local from = tonumber(second)
    local name = format('m%012d', from - from % 60)
    if (attempt('LLEN', P .. ':j:' .. name) or 1000) >= 1000 then name = 's' .. second end
    local length = 0
    each(ids, function(...) length = attempt('RPUSH', P .. ':j:' .. name, ...) or 0 end)
    if length == #ids then begin_journal(name) end
  end
end
