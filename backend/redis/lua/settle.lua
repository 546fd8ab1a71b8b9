-- Settlements and renewals, for exchange.lua.

-- The run records that this script changed, false for those whose receipts are
-- worthless now; the ids whose run records and leases go; the keys that go; how many
-- ended of each queue.
local current, gone_run, gone_key, ended = {}, {}, {}, {}

local function unlease(id, r)
  if has(r, 'l') then
    call('ZREM', P .. ':b:' .. r[QUEUE] .. ':' .. r[PRIO], id)
    flags(r, 'l', '')
  else
    call('ZREM', LEASE, id)
    count(r[QUEUE] .. ':l', -1)
  end
end

-- wait_again makes a task wait that was released or retried.
local function wait_again(id, r, due)
  if due > now then
    r[NOTBEFORE] = due
    delay(r[QUEUE], r[PRIO], id, due)
    call_keeper(r[QUEUE], due)
  else
    if due > 0 then r[NOTBEFORE] = due end
    r[SINCE] = now
    ready_at(r[QUEUE], r[PRIO], id, r[PLACE])
  end
  save(id, r)
  change(id)
end

-- note_error keeps the errors of the ten newest attempts.
local function note_error(id, v, err)
  if err == '' then return v end
  if not attempt('RPUSH', P .. ':e:' .. id, err) then return v end
  call('LTRIM', P .. ':e:' .. id, -10, -1)
  if flagged(v, ERRORS) then return v end
  set_flag(id, v, ERRORS)
  return sub(v, 1, 1) .. char(byte(v, 2) + ERRORS) .. sub(v, 3)
end

local function bury(id, r, v, body, keep)
  r[STARTS] = 0
  if has(r, 'v') then call('HDEL', P .. ':rev', id) end
  flags(r, 'hsvm', '')
  end_claims(id, v)
  finish(id, v, 'x', body, concat(r, ' '), -1, keep == 0)
  call('HDEL', RUN, id)
  call('ZADD', P .. ':dead', now, id)
  count(r[QUEUE] .. ':x', 1)
  change(id)
end

-- settle applies an outcome to a task that is held. s has what the arguments
-- said.
local function settle(id, r, s)
  local v = attempt('GET', task_key(id))
  unlease(id, r)
  current[id] = false
  if not v then -- the server lost it, or somebody deleted it
    call('HDEL', RUN, id)
    return
  end
  if s.kind ~= 'q' then
    r[ATTEMPT] = max(tonumber(r[ATTEMPT]), s.attempt)
    v = note_error(id, v, s.err)
  end
  if s.kind == 'q' or s.kind == 't' then
    if has(r, 'v') then return cancel_revoked(id, r) end
    flags(r, 'hsRT', s.kind == 't' and 'T' or '')
    r[HOLDER] = '-'
    if s.reserved then
      flags(r, '', 'm')
    else
      flags(r, 'm', '')
      if s.kind == 't' or s.due > 0 then
        r[STARTS] = 0
        flags(r, 'r', '')
        if s.due == 0 then r[NOTBEFORE] = 0 end
      end
    end
    if s.started > 0 then r[STARTED] = s.started end
    if s.worker ~= '' then r[WORKER] = s.worker end
    return wait_again(id, r, s.due)
  end
  if s.kind == 'x' then return bury(id, r, v, s.body, s.keep) end
  r[STARTS] = 0
  conclude(id, v, s.kind, s.body, r, s.keep)
end

-- The first end of the leases that this script gives and extends, and the queue of
-- that task.
local first_end, end_queue = math.huge, nil

local function ends(at, queue)
  if at < first_end then first_end, end_queue = at, queue end
end

-- What a run record says that matters to a plain settlement: it is held under
-- that epoch, and nothing happened since. A lease of a fresh task is written with
-- "=" after the epoch, which says just that; any change of it writes a space.
local fresh = {}

local function held(line, epoch)
  if not line then return end
  local n = #epoch + 1
  if find(line, epoch, 1, true) ~= 1 then return end
  local mark = byte(line, n)
  if mark == 61 then return fresh end
  if mark ~= 32 then return end
  local r = parse(line)
  if r and has(r, 'h') then return r end
end

-- hindered reports whether a key is not ours that a settlement needs, of which
-- nothing is done then: that of delayed tasks for one that is to wait, or what its
-- follow-ups need, whose arguments begin at ARGV[a].
local function hindered(r, due, followups, a)
  if due > now and not delays(r[QUEUE]) then return true end
  for _ = 1, followups do
    local line, extra, n = ARGV[a + 1], ARGV[a + 3], 0
    if extra ~= '' then
      local _, at, claims = match(extra, '^(%d+) (%d+) (%d+)')
      n = tonumber(claims)
      if stranger(sub(line, 1, -3), tonumber(at), a + 4, n) then return true end
    end
    a = a + 4 + 2 * n
  end
end

-- settle_slow reads the rest of a settlement's arguments, from ARGV[a] on, and
-- applies it; it returns where the next one's begin, and true if it was not applied
-- for a key that is not ours.
local function settle_slow(id, r, kind, body, extra, a)
  local keep, due, attempt, reserved, started, releases, followups, sent =
    match(extra, '^(%S+) (%d+) (%d+) (%d) (%d+) (%d+) (%d+) (%d+)$')
  local s = {
    kind = kind, body = body, keep = tonumber(keep), due = tonumber(due), attempt = tonumber(attempt),
    reserved = reserved == '1', started = tonumber(started), worker = ARGV[a], err = ARGV[a + 1],
  }
  a = a + 2
  local not_ours = r and hindered(r, s.due, followups, a + releases)
  if not_ours then r = nil end
  if r then settle(id, r, s) end
  for i = a, a + releases - 1 do
    if r then release(id, ARGV[i]) end
  end
  a = a + releases
  for _ = 1, followups do
    if r then
      local _, _, nexta = publish(a)
      a = nexta
    else
      a = a + 4 + 2 * tonumber(match(ARGV[a + 3], '(%d+)$') or 0)
    end
  end
  for i = a, a + sent - 1 do
    if r then send(ARGV[i]) end
  end
  return a + sent, not_ours
end

-- values reads the values of tasks that plain settlements end which do not bring
-- them along.
local function values(from, n, a)
  local keys, at, vals = {}, {}, {}
  for i = 1, n do
    local extra = ARGV[a + 3]
    if find(extra, ' ', 1, true) then return vals end -- rare: read one by one
    if extra ~= '0' and byte(ARGV[a + 1]) >= 97 then
      keys[#keys + 1] = task_key(ARGV[from + i - 1])
      at[#at + 1] = i
    end
    a = a + 4
  end
  if #keys > 0 then
    local got = call('MGET', unpack(keys))
    for k = 1, #keys do vals[at[k]] = got[k] end
  end
  return vals
end

-- settle_plain ends a task as succeeded or cancelled with nothing else to it.
--
-- A settlement of the consumer that has the task brings the value along, outcome
-- in front, where that needs no more looking at: its kind is a capital letter. Where
-- nothing is kept it brings none: nothing else is to be removed.
local function settle_plain(id, queue, kind, body, keep, v)
  current[id] = false
  gone_run[#gone_run + 1] = id
  ended[queue] = (ended[queue] or 0) + 1
  change(id)
  if byte(kind) < 97 then
    if keep == '0' then
      gone_key[#gone_key + 1] = task_key(id)
    else
      call('SET', task_key(id), body, 'XX', 'PX', keep) -- if the server has not lost it
    end
    return
  end
  v = v or attempt('GET', task_key(id))
  if not v then return end
  if keep == '0' then
    if byte(v, 2) % 8 < 2 then call('DEL', task_key(id)) else forget(id, v) end -- neither errors nor claims
  else
    finish(id, trim(v), kind, body, nil, tonumber(keep))
    if tonumber(keep) > 0 and flagged(v, ERRORS) then call('PEXPIRE', P .. ':e:' .. id, keep) end
    if flagged(v, CLAIMS) then call('PEXPIRE', P .. ':c:' .. id, tonumber(keep) > 0 and keep or 1000) end
  end
end

local queue_of = {} -- of the tails of fresh run records

local function fresh_queue(line)
  local at = find(line, ' ', 1, true)
  local tail = sub(line, at, at + 70)
  local queue = queue_of[tail]
  if not queue then
    queue = match(line, '^%d+=%d+ %d (%S+)')
    queue_of[tail] = queue
  end
  return queue
end

-- settle_all applies n settlements whose ids begin at ARGV[from], and whose
-- other arguments begin at ARGV[a].
local function settle_all(lines, from, n, a)
  local vals, out = values(from, n, a), {}
  for i = 1, n do
    local id, epoch, kind, body, extra = ARGV[from + i - 1], ARGV[a], ARGV[a + 1], ARGV[a + 2], ARGV[a + 3]
    a = a + 4
    local line = lines[i]
    if current[id] ~= nil then line = current[id] end
    local r = held(line, epoch)
    out[i] = r and 'o' or 'l'
    if find(extra, ' ', 1, true) then
      if r == fresh then r = parse(line) end
      local not_ours
      a, not_ours = settle_slow(id, r, kind, body, extra, a)
      if not_ours then out[i] = 'f' end
    elseif r == fresh then
      settle_plain(id, fresh_queue(line), kind, body, extra, vals[i])
    elseif r and r[REPLAYS] == '0' and not find(r[FLAGS], '[lv]') then
      settle_plain(id, r[QUEUE], kind, body, extra, vals[i])
    elseif r then
      if byte(kind) < 97 then
        kind, body = char(byte(kind) + 32), sub(body, 3, 9 + tonumber(sub(body, 3, 9)))
      end
      settle(id, r, { kind = kind, body = body, keep = tonumber(extra), due = 0, attempt = 0,
        started = 0, worker = '', err = '' })
    end
  end
  return concat(out), a
end

-- renew_all extends leases; starts and progress change the run record.
local function renew_all(lines, from, n, a, skip)
  local out, scores = {}, {}
  for i = 1, n do
    local id, epoch, extend, start = ARGV[from + i - 1], ARGV[a], ARGV[a + 1], ARGV[a + 2]
    local line = lines[skip + i]
    if current[id] ~= nil then line = current[id] end
    local r = held(line, epoch)
    out[i] = r and 'o' or 'l'
    if r then
      if r == fresh then r = parse(line) end
      local started = start == '1' and not has(r, 's')
      if has(r, 'l') then -- it lapsed, and nobody has taken it
        call('ZREM', P .. ':b:' .. r[QUEUE] .. ':' .. r[PRIO], id)
        flags(r, 'l', '')
        count(r[QUEUE] .. ':l', 1)
      end
      if started then
        flags(r, 'T', 'sR')
        r[STARTS] = r[STARTS] + 1
        r[STARTED], r[PROGRESS] = now, ''
        if ARGV[a + 3] ~= '' then r[WORKER] = ARGV[a + 3] end
      end
      if ARGV[a + 4] ~= '' then r[PROGRESS] = ARGV[a + 4] end
      if started or ARGV[a + 4] ~= '' then change(id) end
      local saved = concat(r, ' ')
      if saved ~= line then
        call('HSET', RUN, id, saved)
        current[id] = saved
      end
      scores[#scores + 1] = now + (extend == '0' and r[LENGTH] or extend)
      ends(scores[#scores], r[QUEUE])
      scores[#scores + 1] = id
      if has(r, 'v') then out[i] = 'v' end
    end
    a = a + 5
  end
  each(scores, function(...) call('ZADD', LEASE, ...) end)
  return concat(out), a
end

local function write_gone()
  for queue, n in pairs(ended) do count(queue .. ':l', -n) end
  each(gone_key, function(...) call('DEL', ...) end)
  each(gone_run, function(...)
    call('HDEL', RUN, ...)
    call('ZREM', LEASE, ...)
  end)
end
