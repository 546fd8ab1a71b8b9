-- deadpurge removes dead letters with their statuses.
--
-- KEYS[1] the partition
-- ARGV    for each its id and the ms of its death
-- returns the server's time in ms, then for each 1, or false if it is not dead
--         any more
local out = { now }
for a = 1, #ARGV, 2 do
  local id = ARGV[a]
  local r, v = exhume(id, ARGV[a + 1])
  out[#out + 1] = r and 1 or false
  if r then
    forget(id, v)
    call('ZREM', DEAD, id)
    count(r[QUEUE] .. ':x', -1)
    change(id)
  end
end
write_counts()
tell_changes()
return out
