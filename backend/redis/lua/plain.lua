-- plain stores tasks that are due at once and have no claims: what publish does
-- for them, with as little around it as can be. Lua makes every function of a
-- script anew in each run, and publish's cost more than storing a task.
--
-- KEYS[1] the partition
-- ARGV    for each: id, QUEUE:PRIO, value
-- returns a letter for each: s stored, e exists
local call, P, sub = redis.call, KEYS[1], string.sub
local TASK, out, stored, queued, seconds = P .. ':t:', {}, {}, {}, {}
for a = 1, #ARGV, 3 do
  local id, line, value = ARGV[a], ARGV[a + 1], ARGV[a + 2]
  if call('SET', TASK .. id, value, 'NX') then
    out[#out + 1] = 's'
    stored[#stored + 1] = id
    local ids, second = queued[line], sub(value, 17, 28)
    if ids then ids[#ids + 1] = id else queued[line] = { id } end
    ids = seconds[second]
    local entry = sub(value, 27, 31) .. id -- see journal in common.lua
    if ids then ids[#ids + 1] = entry else seconds[second] = { entry } end
  else
    out[#out + 1] = 'e'
  end
end

local function push(key, ids)
  local n
  for i = 1, #ids, 4000 do n = call('RPUSH', key, unpack(ids, i, math.min(i + 3999, #ids))) end
  return n
end

local unmarked, begun = {}, {}
for line, ids in pairs(queued) do
  push(P .. ':q:' .. line, ids)
  local marks = call('HGET', P .. ':filled', sub(line, 1, -3))
  if not marks or not string.find(marks, sub(line, -1), 1, true) then unmarked[#unmarked + 1] = line end
end
for second, ids in pairs(seconds) do
  local name = string.format('m%012d', second - second % 60)
  if call('LLEN', P .. ':j:' .. name) >= 1000 then name = 's' .. second end
  if push(P .. ':j:' .. name, ids) == #ids then begun[#begun + 1] = name end
end
-- What is rare needs the functions of common.lua.
if #stored > 0 and (#unmarked + #begun > 0 or call('EXISTS', P .. ':idle', P .. ':watch') > 0) then
  -- include common
  for i = 1, #unmarked do fill(sub(unmarked[i], 1, -3), sub(unmarked[i], -1)) end
  for i = 1, #begun do begin_journal(begun[i]) end
  for line, ids in pairs(queued) do
    local queue = sub(line, 1, -3)
    touched[queue] = (touched[queue] or 0) + #ids
  end
  for i = 1, #stored do change(stored[i]) end
  call_touched()
  tell_changes()
end
return table.concat(out)
