-- queues describes queues by the lengths of keys, and a few counters.
--
-- KEYS[1] the partition
-- ARGV    1 "names": returns the names of all queues that may hold anything
--         1 "info", then names: returns for each name, ready, delayed, leased,
--         dead, the ms for which its oldest ready task has been ready, and how
--         many delayed ones are due within a minute

local function names()
  local seen, out = {}, {}
  local function add(name)
    if not seen[name] then
      seen[name] = true
      out[#out + 1] = name
    end
  end
  for _, name in ipairs(call('HKEYS', FILLED)) do add(name) end
  for _, name in ipairs(call('ZRANGE', DUE, 0, -1)) do add(name) end
  for _, field in ipairs(call('HKEYS', P .. ':count')) do add(sub(field, 1, -3)) end
  return out
end

-- since is when a task became ready.
local function since(id)
  local v, line = attempt('GETRANGE', task_key(id), 0, 400) or '', call('HGET', RUN, id)
  local r = line and parse(line)
  local at = r and tonumber(r[SINCE]) or 0
  if at == 0 then at = tonumber(match(v, '^w.(%d+) ') or now) end
  local due = r and tonumber(r[NOTBEFORE]) or 0
  if not r and #v > 2 and flagged(v, DELAYED) then
    local _, _, _, _, notbefore = head(v)
    due = tonumber(notbefore or 0)
  end
  return max(at, due)
end

local function info(queue)
  local n, oldest = 0, now
  for mark in gmatch(call('HGET', FILLED, queue) or '', '.') do
    local first
    if byte(mark) >= 97 then
      local key = P .. ':b:' .. queue .. ':' .. char(byte(mark) - 49)
      n = n + (attempt('ZCARD', key) or 0)
      first = attempt('ZRANGE', key, 0, 7) or {}
    else
      local key = P .. ':q:' .. queue .. ':' .. mark
      n = n + (attempt('LLEN', key) or 0)
      first = attempt('LRANGE', key, 0, 7) or {}
    end
    for _, id in ipairs(first) do oldest = min(oldest, since(id)) end
  end
  local counts = call('HMGET', P .. ':count', queue .. ':l', queue .. ':x', queue .. ':g')
  n = max(0, n - tonumber(counts[3] or 0))
  local key = P .. ':d:' .. queue
  return { queue, n, attempt('ZCARD', key) or 0, tonumber(counts[1] or 0), tonumber(counts[2] or 0),
    n > 0 and max(0, now - oldest) or 0, attempt('ZCOUNT', key, '-inf', now + 60000) or 0 }
end

if ARGV[1] == 'names' then return names() end
local out = {}
for i = 2, #ARGV do out[#out + 1] = info(ARGV[i]) end
return out
