-- What the scripts of locks and schedules share. All of these keys lie in
-- partition 0; docs/redis.md describes them.
local ENTRY, HISTORY = P .. ':entry:', P .. ':history:'
local ENTRIES, DUES, SCHEDULES = P .. ':entries', P .. ':entries:due', P .. ':schedules'
local PENDING, FIRINGS = P .. ':pending', P .. ':pending:firings'
local format = string.format
local micros = clock[1] .. format('%06d', clock[2])

-- left is for how many ms more a lock lasts that has this time and end. A clock
-- that was stepped back would make it last longer than it was given for: such
-- a lock is over.
local function left(ttl, till)
  local ms = tonumber(till or 0) - now
  ttl = tonumber(ttl or 0)
  if ms <= 0 or ms / 2 > ttl then return 0 end
  return min(ms, ttl)
end

-- leads reports whether a token is the newest of its lock, and lasts.
local function leads(name, token, alive)
  local lock = call('HMGET', P .. ':lock:' .. name, 'token', 'ttl', 'until')
  return lock[1] == token and (not alive or left(lock[2], lock[3]) > 0)
end

-- keep puts a line into an entry's history, the newest first; a few more than
-- are shown stay, so that not every line costs a trim.
local function keep(id, line)
  if (attempt('LPUSH', HISTORY .. id, line) or 0) > 120 then call('LTRIM', HISTORY .. id, 0, 99) end
end

-- look_at says when beat is next to look at an entry; '0': never.
local function look_at(id, at)
  if at == '0' then
    call('ZREM', DUES, id)
  else
    call('ZADD', DUES, at, id)
  end
end
