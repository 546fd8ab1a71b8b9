-- delete removes the statuses of tasks that have ended. A dead letter stays; its
-- status is shown no more.
--
-- KEYS[1] the partition
-- ARGV    ids
-- returns a letter for each: o done, n it has not ended, u unknown here
local out = {}
for i = 1, #ARGV do
  local id = ARGV[i]
  local v = attempt('GET', task_key(id))
  if v and #v < 2 then v = nil end
  local kind = v and sub(v, 1, 1)
  local hidden = v and kind ~= 'w' and floor(byte(v, 2) / 2) % 2 == 1
  if not v or hidden then
    out[i] = 'u'
  elseif kind == 'w' then
    out[i] = 'n'
  else
    out[i] = 'o'
    if kind == 'x' then
      call('SETRANGE', task_key(id), 1, char(byte(v, 2) + 2))
    else
      local _, rest = opened(v)
      forget(id, rest)
    end
    change(id)
  end
end
tell_changes()
return concat(out)
