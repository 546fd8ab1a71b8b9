-- Moving what is due, taking back what lapsed, leasing what is ready, for
-- exchange.lua.

-- move_due makes ready what has come due, of whatever queue, but not much more
-- than is wanted: the first of thousands should not wait until all are moved. It
-- returns when the next will be due, or was.
local function move_due(want)
  local first, moved = call('ZRANGE', DUE, 0, 0, 'WITHSCORES'), 0
  for _ = 1, 16 do
    if not first[1] or tonumber(first[2]) > now or moved >= want then break end
    local queue = first[1]
    local key = P .. ':d:' .. queue
    local due = attempt('ZRANGEBYSCORE', key, '-inf', now, 'LIMIT', 0, 256)
    for i = 1, #(due or {}) do
      if find(due[i], '^%d:') then ready(queue, sub(due[i], 1, 1), sub(due[i], 3)) end -- else it is none of ours
    end
    if not due then
      call('ZADD', DUE, now + PARKED, queue) -- to look again
    else
      if #due > 0 then call('ZREM', key, unpack(due)) end
      moved = moved + #due
      local coming = call('ZRANGE', key, 0, 0, 'WITHSCORES')
      if coming[1] then call('ZADD', DUE, coming[2], queue) else call('ZREM', DUE, queue) end
    end
    first = call('ZRANGE', DUE, 0, 0, 'WITHSCORES')
  end
  return tonumber(first[2])
end

-- take_back makes ready what was leased until now, in its old place.
local function take_back()
  local first = call('ZRANGE', LEASE, 0, 0, 'WITHSCORES')
  if not first[1] or first[2] == 'inf' then return nil end
  if tonumber(first[2]) > now then return tonumber(first[2]) end
  local ids = call('ZRANGEBYSCORE', LEASE, '-inf', now, 'LIMIT', 0, 512)
  local lines = call('HMGET', RUN, unpack(ids))
  call('ZREM', LEASE, unpack(ids))
  for i = 1, #ids do
    local r = lines[i] and parse(lines[i])
    if r then
      count(r[QUEUE] .. ':l', -1)
      if has(r, 'v') then
        call('HDEL', P .. ':news', r[HOLDER]) -- whoever renews is told again
        cancel_revoked(ids[i], r)
      else
        flags(r, 'm', 'lr') -- and a slot of a rate limit is gone with it
        r[SINCE] = now
        save(ids[i], r)
        ready_at(r[QUEUE], r[PRIO], ids[i], r[PLACE])
      end
    end
  end
  first = call('ZRANGE', LEASE, 0, 0, 'WITHSCORES')
  if first[1] and first[2] ~= 'inf' then return tonumber(first[2]) end
end

-- What is taken: ids, values, run records of those that have one, and places of
-- those that came back.
local taken, taken_v, taken_r, taken_from = {}, {}, {}, {}
local room, bytes, stale, strict = 0, 0, 0, false

local function drop_mark(queue, mark)
  local marks = call('HGET', FILLED, queue)
  if not marks then return end
  local at = find(marks, mark, 1, true) -- not a pattern: it may be what somebody else wrote
  if not at then return end
  marks = sub(marks, 1, at - 1) .. sub(marks, at + 1)
  if marks == '' then call('HDEL', FILLED, queue) else call('HSET', FILLED, queue, marks) end
end

-- back_to puts ids back to the front of the line from which they were popped.
local function back_to(queue, prio, id, place)
  if place then
    call('ZADD', P .. ':b:' .. queue .. ':' .. prio, place, id)
  else
    call('LPUSH', P .. ':q:' .. queue .. ':' .. prio, id)
  end
end

-- give_up puts all back that was taken, and fails as a command did: a key that
-- every lease needs is not ours.
local function give_up(...)
  for n = #taken, 1, -1 do
    local place, queue, prio = unpack(taken_from[n], 1, 3)
    back_to(queue, prio, taken[n], place)
    fill(queue, place and back_mark(prio) or prio)
  end
  return call(...)
end

-- skip forgets an entry whose task is gone, or elsewhere.
local function skip(queue)
  stale = stale + 1
  if tonumber(call('HGET', P .. ':count', queue .. ':g') or 0) + (deltas[queue .. ':g'] or 0) > 0 then
    count(queue .. ':g', -1)
  end
end

-- astray reports whether a task waits elsewhere than in the list in which its id
-- was found: one that was revoked there, and published again, is listed twice.
local seen, seen_to = {}, 0 -- of what is taken

local function astray(queue, prio, id, v, r)
  while seen_to < #taken do
    seen_to = seen_to + 1
    seen[taken[seen_to]] = true
  end
  local its_prio, its_queue = head(v)
  if seen[id] or its_prio and (its_prio ~= prio or its_queue ~= queue) then return true end
  if not r and not flagged(v, DELAYED) then return false end
  return call('ZSCORE', P .. ':d:' .. queue, prio .. ':' .. id)
    or call('ZSCORE', P .. ':b:' .. queue .. ':' .. prio, id)
end

-- take_some takes at most n from one line. It reports whether there may be more
-- of it that fits.
local function take_some(queue, mark, n)
  local back, ids, places = byte(mark) >= 97, nil, {}
  local prio = back and char(byte(mark) - 49) or mark
  local doubtful = call('HEXISTS', P .. ':count', queue .. ':g') == 1 and not back
  if back then
    local got = attempt('ZPOPMIN', P .. ':b:' .. queue .. ':' .. prio, n) or {}
    ids = {}
    for i = 1, #got, 2 do
      ids[#ids + 1] = got[i]
      places[#places + 1] = got[i + 1]
    end
  else
    ids = attempt('LPOP', P .. ':q:' .. queue .. ':' .. prio, n) or {}
  end
  if #ids == 0 then
    drop_mark(queue, mark)
    return false
  end
  local keys, line = {}, { nil, queue, prio }
  for i = 1, #ids do keys[i] = task_key(ids[i]) end
  local vals, lines = call('MGET', unpack(keys)), redis.pcall('HMGET', RUN, unpack(ids))
  if lines.err then
    for i = #ids, 1, -1 do back_to(queue, prio, ids[i], places[i]) end
    fill(queue, mark)
    give_up('HMGET', RUN, '')
  end
  for i = 1, #ids do
    local v, r = vals[i], lines[i] and parse(lines[i])
    if not v or byte(v) ~= 119 or not byte(v, 2) or r and not back and has(r, 'h') or back and not r then
      skip(queue)
    elseif doubtful and astray(queue, prio, ids[i], v, r) then
      skip(queue)
    elseif bytes > 0 and (strict or #taken > 0) and #v > room then
      for k = #ids, i, -1 do back_to(queue, prio, ids[k], places[k]) end
      room = -1
      return false
    else
      room = room - #v
      local n = #taken + 1
      taken[n], taken_v[n], taken_r[n] = ids[i], v, r or false
      taken_from[n] = back and { places[i], queue, prio } or line
    end
  end
  if #ids < n then
    drop_mark(queue, mark)
    return false
  end
  if stale >= 10000 then room = -1 end -- enough for one script: the next exchange goes on
  return true
end

-- take takes up to limit from a queue, higher priorities first. The first few
-- tell how large they are: Lua should not hold many large ones at once.
local function take(queue, limit)
  local to = #taken + limit
  local marks = call('HGET', FILLED, queue)
  for mark in gmatch(marks or '', '.') do
    repeat
      local n = min(to - #taken, 1000)
      if n > 16 and bytes > 0 then
        local fits = #taken > 0 and floor(room / ((bytes - room) / #taken + 1)) or 16
        n = max(1, min(n, fits))
      end
    until #taken >= to or room < 0 or not take_some(queue, mark, n)
    if #taken >= to or room < 0 then return end
  end
end

-- matching lists the queues with marks that a pattern stands for, beginning at
-- another one each time.
local function matching(entry, turn)
  local found = {}
  for _, queue in ipairs(call('HKEYS', FILLED)) do
    if serves(entry, queue) then found[#found + 1] = queue end
  end
  local n, turned = #found, {}
  for i = 1, n do turned[i] = found[(i - 1 + turn) % n + 1] end
  return turned
end

-- take_all takes from the queues of a subscription, in its order; those of one
-- pattern get equal shares first.
local function take_all(order, want, turn, paused)
  for entry in gmatch(order, '[^,]+') do
    if #taken >= want or room < 0 then return end
    if not find(entry, '*', 1, true) then
      if not paused[entry] then take(entry, want - #taken) end
    else
      local queues = matching(entry, turn)
      local share = max(1, floor((want - #taken) / max(#queues, 1)))
      for pass = 1, 2 do
        for _, queue in ipairs(queues) do
          if #taken < want and room >= 0 and not paused[queue] then
            take(queue, pass == 1 and min(share, want - #taken) or want - #taken)
          end
        end
      end
    end
  end
end

-- really looks whether a queue's marks are true, and corrects them.
local function really(queue)
  for mark in gmatch(call('HGET', FILLED, queue) or '', '.') do
    local n
    if byte(mark) >= 97 then
      n = attempt('ZCARD', P .. ':b:' .. queue .. ':' .. char(byte(mark) - 49))
    else
      n = attempt('LLEN', P .. ':q:' .. queue .. ':' .. mark)
    end
    if n and n > 0 then return true end
    drop_mark(queue, mark)
  end
  return false
end

-- left returns one of the subscription's queues that has more, or nil.
local function left(order, paused)
  for entry in gmatch(order, '[^,]+') do
    if not find(entry, '*', 1, true) then
      if not paused[entry] and really(entry) then return entry end
    else
      for _, queue in ipairs(call('HKEYS', FILLED)) do
        if not paused[queue] and serves(entry, queue) and really(queue) then return queue end
      end
    end
  end
end

-- lease writes the leases of what was taken, and lists it for the answer.
local function lease(answer, holder, worker, length)
  local n = #taken
  if n == 0 then return 0 end
  local epoch = redis.pcall('INCRBY', P .. ':epoch', n)
  if type(epoch) == 'table' then give_up('INCRBY', P .. ':epoch', n) end
  epoch = epoch - n
  local per_queue = {}
  local fields, scores, tail, tail_of_queue, plain_end = {}, {}, '', nil, now + length
  plain_end = format('%d', plain_end)
  for i = 1, n do
    local id, v, r = taken[i], taken_v[i], taken_r[i]
    local place, queue, prio = unpack(taken_from[i], 1, 3)
    epoch = epoch + 1
    local line, own
    if not r and (byte(v, 2) == 64 or byte(v, 2) == 80) then -- no flag, or BARE alone
      if tail_of_queue ~= queue .. prio then
        tail_of_queue = queue .. prio
        tail = ' ' .. prio .. ' ' .. queue .. ' ' .. length .. ' .h 0 0 0 0 ' .. now .. ' 0 0 0 ' .. holder .. ' ' .. worker .. ' '
      end
      local e = format('%d', epoch)
      line = e .. '=' .. e .. tail
    else
      r = r or record_of(v) or { 0, 0, prio, queue, 0, '.', 0, 0, 0, 0, 0, 0, 0, 0, '-', '-', '' }
      local asked = flagged(v, UNUSUAL) and select(3, head(v)) or '0'
      own = tonumber(asked) > 0 and asked or length
      r[LENGTH] = own
      r[EPOCH], r[PLACE] = epoch, place or epoch
      flags(r, 'ls', 'h')
      r[SINCE], r[HOLDER] = now, holder
      if not has(r, 'R') then r[WORKER] = worker end
      line = concat(r, ' ')
    end
    fields[2 * i - 1], fields[2 * i] = id, line
    scores[2 * i - 1], scores[2 * i] = own and now + own or plain_end, id
    if own then ends(now + own, queue) end
    local at = 8 + 3 * i
    answer[at - 2], answer[at - 1], answer[at] = id, v, r and line or ''
    per_queue[queue] = (per_queue[queue] or 0) + 1
  end
  for queue, n in pairs(per_queue) do count(queue .. ':l', n) end
  each(fields, function(...) call('HSET', RUN, ...) end)
  each(scores, function(...) call('ZADD', LEASE, ...) end)
  ends(now + length, taken_from[1][2])
  return epoch - n + 1
end
