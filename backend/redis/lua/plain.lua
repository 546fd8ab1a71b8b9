-- plain stores tasks that are due at once, have no claims, and whose key is the tag
-- and their id: what publish does for them, with as little around it as can be. Lua
-- makes every function of a script anew in each run, and publish's cost more than
-- storing a task.
--
-- KEYS[1] the partition
-- ARGV    for each lot, of 2000 different tasks at most: QUEUE:PRIO, the journal's list,
--         how many tasks, then id and value of each
-- returns the places of the tasks that exist, the first being 1, in words; before
--         them stands c if a list of the journal is long: see crowd in plain.go
local call, pcall, P, ARGV, sub, unpack = redis.call, redis.pcall, KEYS[1], ARGV, string.sub, unpack
local a, place = 1, 0
local lots, rare, exist, crowded = {}, false, '', ''
while a < #ARGV do
  local line, list, last = ARGV[a], ARGV[a + 1], a + 2 + 2 * ARGV[a + 2]
  local ids, entries, pairs, n = {}, {}, {}, 0
  for i = a + 3, last, 2 do
    local id, value = ARGV[i], ARGV[i + 1]
    n = n + 1
    ids[n], entries[n] = id, sub(value, 27, 31) .. id -- see journal in common.lua
    pairs[2 * n - 1], pairs[2 * n] = P .. id, value
  end
  if call('MSETNX', unpack(pairs)) == 0 then
    -- One of them exists: each for itself.
    local kept, noted, all = {}, {}, n
    n = 0
    for i = 1, all do
      if call('SET', pairs[2 * i - 1], pairs[2 * i], 'NX') then
        n = n + 1
        kept[n], noted[n] = ids[i], entries[i]
      else
        exist = exist .. ' ' .. place + i
      end
    end
    ids, entries, place = kept, noted, place + all
  else
    place = place + n
  end
  if n > 0 then
    -- A line that held something is marked already, and a list entered. One that is
    -- none is a key that is not ours.
    local waiting = pcall('RPUSH', P .. ':q:' .. line, unpack(ids))
    local length = pcall('RPUSH', P .. ':j:' .. list, unpack(entries))
    lots[#lots + 1] = { ids, line, waiting, length == n and list }
    rare = rare or length == n or waiting == n or type(waiting) == 'table'
    if type(length) == 'table' or length >= 1000 then crowded = 'c' end
  end
  a = last + 1
end
-- What is rare needs the functions of common.lua.
if lots[1] and (rare or call('EXISTS', P .. ':idle', P .. ':watch') > 0) then
  -- include common
  for k = 1, #lots do
    local ids, line, waiting, list = unpack(lots[k])
    local queue, prio = sub(line, 1, -3), sub(line, -1)
    if list then begin_journal(list) end
    if type(waiting) == 'table' then
      for i = 1, #ids do ready(queue, prio, ids[i]) end
    else
      fill(queue, prio)
      touched[queue] = (touched[queue] or 0) + #ids
    end
    for i = 1, #ids do change(ids[i]) end
  end
  write_ready()
  call_touched()
  tell_changes()
end
return crowded .. exist
