-- sweep takes out of the journal what has gone, a page of one list at a time. A
-- list is looked through when half of its first few tasks have gone.
--
-- KEYS[1] the partition
-- returns in how many ms there may be more to do
local SWEEP, SWEEPING = P .. ':sweep', P .. ':sweeping'
local first = call('ZRANGE', SWEEP, 0, 0, 'WITHSCORES')
local name, at = first[1], tonumber(first[2])
if not name then return 60000 end
if at > now then return min(60000, at - now) end
local list, second = P .. ':j:' .. name, tonumber(sub(name, 2))

-- id_of is the id of an entry; see journal.
local function id_of(entry)
  local id, digits = sub(entry, 6), tonumber(sub(entry, 1, 5))
  if byte(id) ~= 61 or not digits or not second then return id end
  local minute = 1000 * (second - second % 60)
  local at = minute - minute % 100000 + digits
  if at < minute then at = at + 100000 end
  return format('%08x-', floor(at / 65536)) .. sub(id, 2)
end

local function alive(ids, from, to)
  local keys = {}
  for i = from, to do
    local id = id_of(ids[i])
    keys[#keys + 1] = task_key(id)
    keys[#keys + 1] = P .. ':s:' .. id
  end
  if #keys == 0 then return 0 end
  return call('EXISTS', unpack(keys))
end

local left = tonumber(call('HGET', SWEEPING, name) or 0)
if left == 0 then
  left = attempt('LLEN', list)
  if not left then -- it is none of ours
    call('ZADD', SWEEP, now + 3600000, name)
    return 0
  end
  local ids = call('LRANGE', list, 0, 15)
  if left == 0 then
    call('ZREM', SWEEP, name)
    call('ZREM', P .. ':journal', name)
    return 0
  end
  if 2 * alive(ids, 1, #ids) > #ids then
    local age = now - 1000 * second
    call('ZADD', SWEEP, now + max(120000, floor(age / 2)), name)
    return 0
  end
end
local n = min(left, 1000)
local ids, stay = call('LPOP', list, n) or {}, {}
for i = 1, #ids, 25 do
  local to = min(i + 24, #ids)
  if alive(ids, i, to) > 0 then
    for k = i, to do
      if alive(ids, k, k) > 0 then stay[#stay + 1] = ids[k] end
    end
  end
end
if #stay > 0 then call('RPUSH', list, unpack(stay)) end
left = left - n
if left > 0 and #ids == n then
  call('HSET', SWEEPING, name, left)
  return 0
end
call('HDEL', SWEEPING, name)
if call('EXISTS', list) == 1 then
  call('ZADD', SWEEP, now + max(120000, floor((now - 1000 * second) / 2)), name)
else
  call('ZREM', SWEEP, name)
  call('ZREM', P .. ':journal', name)
end
return 0
