-- claims takes, keeps or drops claims of tasks that lie in other partitions.
--
-- KEYS[1] the partition of the keys
-- ARGV    1 "take", "keep", "drop"   then for each: key, id, ms (0: no time of
--         its own)
-- returns of take, for each: "n" it is new, "o" it is the task's own already,
--         "d ID" that task holds it, "u ID" that one does, without a time
--
-- One without a time is taken for half a minute and kept for good once its task
-- is stored: a client that dies in between leaves nothing.
local out = {}
for a = 2, #ARGV, 3 do
  local key, id, ms = P .. ':claim:' .. ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2])
  local holder = call('GET', key)
  if ARGV[1] == 'take' then
    if holder == id then
      out[#out + 1] = 'o'
    elseif holder then
      out[#out + 1] = (call('PTTL', key) == -1 and 'u ' or 'd ') .. holder
    else
      call('SET', key, id, 'PX', ms > 0 and ms or 30000)
      out[#out + 1] = 'n'
    end
  elseif holder == id then
    if ARGV[1] == 'drop' then call('DEL', key) elseif ms == 0 then call('PERSIST', key) end
  end
end
return out
