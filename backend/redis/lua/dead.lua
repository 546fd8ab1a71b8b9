-- Values of tasks that have ended, for delete.lua, deadreplay.lua and
-- deadpurge.lua.
local DEAD = P .. ':dead'

-- opened returns the run record's line of a value that ended, if it has one, and
-- what the value was before.
local function opened(v)
  local from = 10 + (tonumber(sub(v, 3, 9)) or 0)
  if byte(v, 2) % 2 == 0 then return nil, sub(v, from) end
  local to = find(v, '\n', from, true) or from
  return sub(v, from, to - 1), sub(v, to + 1)
end

-- exhume returns the run record of a dead letter and what its value was before
-- it died, or nothing, if it is not dead, or has died again since.
local function exhume(id, ms)
  if call('ZSCORE', DEAD, id) ~= ms then return end
  local v = attempt('GET', task_key(id))
  if not v or byte(v) ~= 120 then return end
  local line, rest = opened(v)
  local r = line and parse(line) or record_of(rest)
  if r then return r, rest end
end
