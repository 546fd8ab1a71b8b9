-- deadreplay makes dead letters wait again, with their retries fresh. One
-- script, so that a task is never both dead and live, and never neither.
--
-- KEYS[1] the partition
-- ARGV    1 the ms at which they are due; 0: now   2 of an edited envelope, the
--         value after its first 16 bytes, or ""   then for each its id and the
--         ms of its death
-- returns the server's time in ms, then for each false, if it is not dead any
--         more, or { epoch, replays, queue }
local due, edited = tonumber(ARGV[1]), ARGV[2]
local out = { now }

local function replay(id, r, v)
  if due > now and not delays(r[QUEUE]) then return false end
  if edited ~= '' then v = sub(v, 1, 16) .. edited end
  r[EPOCH] = call('INCR', P .. ':epoch')
  r[BASE], r[STARTS], r[REPLAYS] = r[ATTEMPT], 0, r[REPLAYS] + 1
  r[FLAGS], r[SINCE], r[NOTBEFORE], r[STARTED], r[REPLAYED] = '.', now, 0, 0, now
  r[HOLDER], r[WORKER], r[PROGRESS] = '-', '-', ''
  call('SET', task_key(id), v)
  call('ZREM', DEAD, id)
  count(r[QUEUE] .. ':x', -1)
  if due > now then
    r[NOTBEFORE] = due
    delay(r[QUEUE], r[PRIO], id, due)
    call_keeper(r[QUEUE], due)
  else
    ready(r[QUEUE], r[PRIO], id)
  end
  save(id, r)
  change(id)
  return { r[EPOCH], r[REPLAYS], r[QUEUE] }
end

for a = 3, #ARGV, 2 do
  local r, v = exhume(ARGV[a], ARGV[a + 1])
  out[#out + 1] = r and replay(ARGV[a], r, v) or false
end
write_ready()
write_counts()
call_touched()
tell_changes()
return out
