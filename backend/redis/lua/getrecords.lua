-- getrecords reads the records of tasks whose broker is another store.
--
-- KEYS[1] the partition
-- ARGV    ids
-- returns the server's time in ms, then for each its record, "" without one, or
--         "t" for a task of the broker of this store
local out = { now }
for i = 1, #ARGV do
  local id = ARGV[i]
  out[i + 1] = attempt('GET', P .. ':s:' .. id) or call('EXISTS', task_key(id)) == 1 and 't' or ''
end
return out
