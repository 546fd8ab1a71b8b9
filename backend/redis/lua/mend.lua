-- mend writes again what is said elsewhere of lists, sets and run records: a key of
-- another type was in the place of what says it, and is gone with what it replaced.
--
-- KEYS[1] the partition
-- ARGV    for each a letter and a name: q or b QUEUE:PRIORITY, the lists and sets of
--         ready tasks; d QUEUE, delayed ones; r ID, a run record
for a = 1, #ARGV, 2 do
  local kind, name = ARGV[a], ARGV[a + 1]
  if kind == 'd' then
    local first = attempt('ZRANGE', P .. ':d:' .. name, 0, 0, 'WITHSCORES')
    if first and first[1] then call('ZADD', DUE, 'LT', first[2], name) end
  elseif kind == 'r' then
    local r = parse(call('HGET', RUN, name) or '')
    if r and has(r, 'h') and not has(r, 'l') then call('ZADD', LEASE, 'NX', now + r[LENGTH], name) end
  else
    local queue, prio = sub(name, 1, -3), sub(name, -1)
    local n = attempt(kind == 'q' and 'LLEN' or 'ZCARD', P .. ':' .. kind .. ':' .. name)
    if n and n > 0 then
      fill(queue, kind == 'q' and prio or back_mark(prio))
      touched[queue] = (touched[queue] or 0) + n
    end
  end
end
call_touched()
return 1
