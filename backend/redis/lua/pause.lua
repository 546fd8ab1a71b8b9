-- pause stops queues from being handed out, or lets them go on.
--
-- KEYS[1] the partition
-- ARGV    1 "pause" or "resume", then for each queue its name and a note
-- returns for each 1 if it was paused, else 0
--
-- A field of the hash is "SINCE NOTE".
local PAUSES = P .. ':pauses'
local out = {}
for a = 2, #ARGV, 2 do
  local queue, note = ARGV[a], ARGV[a + 1]
  local old = call('HGET', PAUSES, queue)
  out[#out + 1] = old and 1 or 0
  if ARGV[1] == 'pause' then
    local since = match(old or '', '^%d+') or now
    if note == '' and old then note = match(old, '^%d+ (.*)$') or '' end
    call('HSET', PAUSES, queue, since .. ' ' .. note)
  elseif old then
    call('HDEL', PAUSES, queue)
    if call('HEXISTS', FILLED, queue) == 1 then call_for(queue, 4) end
  end
end
return out
