-- get reads all that is kept of tasks.
--
-- KEYS[1] the partition
-- ARGV    ids
-- returns the server's time in ms, then for each: false, or { value (a record's,
--         where the broker is another store), run record
--         or "", ms that it is kept yet (-1: for ever), errors, oldest first }
local out = { now }
for i = 1, #ARGV do
  local id = ARGV[i]
  local v = attempt('GET', task_key(id))
  if not v or #v < 2 or byte(v) ~= 119 and floor(byte(v, 2) / 2) % 2 == 1 then
    local record = attempt('GET', P .. ':s:' .. id)
    out[i + 1] = record and { record, '', call('PTTL', P .. ':s:' .. id), {} } or false
  else
    out[i + 1] = { v, call('HGET', RUN, id) or '', call('PTTL', task_key(id)), attempt('LRANGE', P .. ':e:' .. id, 0, -1) or {} }
  end
end
return out
