-- get reads all that is kept of tasks.
--
-- KEYS[1] the partition
-- ARGV    ids
-- returns the server's time in ms, then for each: false, or { value, run record
--         or "", ms that it is kept yet (-1: for ever), errors, oldest first }
local out = { now }
for i = 1, #ARGV do
  local id = ARGV[i]
  local v = call('GET', TASK .. id)
  if not v then
    out[i + 1] = false
  else
    out[i + 1] = { v, call('HGET', RUN, id) or '', call('PTTL', TASK .. id), call('LRANGE', P .. ':e:' .. id, 0, -1) }
  end
end
return out
