-- getrecords reads the records of tasks whose broker is another store.
--
-- KEYS[1] the partition
-- ARGV    ids
-- returns the server's time in ms, then for each its record, "" without one, or
--         "t" for a task of the broker of this store, "f" where the record's key is
--         not ours
local out = { now }
for i = 1, #ARGV do
  local id = ARGV[i]
  local record = attempt('GET', P .. ':s:' .. id)
  out[i + 1] = record == nil and 'f' or record or call('EXISTS', task_key(id)) == 1 and 't' or ''
end
return out
