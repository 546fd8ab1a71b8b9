-- publish stores tasks: each value, its claims, its place in line and its place
-- in the journal, or nothing of it. One script, so that a claim and its task, an
-- id and its look-up, and the call of who waits cannot come apart.
--
-- KEYS[1] the partition
-- ARGV    see publish in common.lua, one after the other
-- returns a letter for each (s stored, e exists, d duplicate, t its claims were taken
--         too long ago, f it needs a key that is not ours), then for each d the holder, for each f the key
local answers, out, a, n = {}, { '' }, 1, 0
while a <= #ARGV do
  local answer, holder
  answer, holder, a = publish(a)
  n = n + 1
  answers[n] = answer
  if holder then out[#out + 1] = holder end -- not by unpack: there may be more than Lua's stack holds
end
write_ready()
write_journal()
call_touched()
tell_changes()
out[1] = concat(answers)
return out
