-- purge cancels one page of a queue's ready and delayed tasks.
--
-- KEYS[1] the partition
-- ARGV    1 queue   2 at most so many   3 how long to keep their statuses in ms
--         4 the reason as JSON
-- returns the ids, and before them "1" if there may be more
local queue, limit, keep, reason = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local out, looked = { '0' }, 0

local function remove(id, listed)
  looked = looked + 1
  local v, line = attempt('GET', task_key(id)), call('HGET', RUN, id)
  local r = line and parse(line)
  if not v or byte(v) ~= 119 or listed and r and has(r, 'h') then
    if tonumber(call('HGET', P .. ':count', queue .. ':g') or 0) + (deltas[queue .. ':g'] or 0) > 0 then
      count(queue .. ':g', -1)
    end
    if not v and r and not has(r, 'h') then call('HDEL', RUN, id) end
    return
  end
  r = r or record_of(v) or { 0, 0, 0, queue, 0, '.', 0, 0, 0, 0, 0, 0, 0, 0, '-', '-', '' }
  flags(r, 'l', '')
  cancel(id, v, r, reason, keep)
  out[#out + 1] = id
end

for prio = 9, 0, -1 do
  if looked < limit then
    local got = attempt('ZPOPMIN', P .. ':b:' .. queue .. ':' .. prio, limit - looked) or {}
    for i = 1, #got, 2 do remove(got[i], false) end
  end
  if looked < limit then
    for _, id in ipairs(attempt('LPOP', P .. ':q:' .. queue .. ':' .. prio, limit - looked) or {}) do remove(id, true) end
  end
end
if looked < limit then
  local got = attempt('ZPOPMIN', P .. ':d:' .. queue, limit - looked) or {}
  for i = 1, #got, 2 do remove(sub(got[i], 3), false) end
end
if looked >= limit then out[1] = '1' end
write_counts()
tell_changes()
return out
