-- deadlist reads dead letters in the order of their death.
--
-- KEYS[1] the partition
-- ARGV    1 "ids", then ids
-- or      1 "old", oldest first, or "new"   2 at most so many   3 ms and 4 id of
--         the one that comes before the page; an empty id: from the beginning
-- returns the server's time in ms, "1" if there is more, then for each id, ms,
--         value, errors, oldest first
local DEAD = P .. ':dead'
local out, bytes = { now, '0' }, 0

local function add(id, at)
  local v = attempt('GET', task_key(id))
  if not v or byte(v) ~= 120 then return end
  bytes = bytes + #v
  local n = #out
  out[n + 1], out[n + 2], out[n + 3], out[n + 4] = id, at, v, attempt('LRANGE', P .. ':e:' .. id, 0, -1) or {}
end

if ARGV[1] == 'ids' then
  for i = 2, #ARGV do
    local at = call('ZSCORE', DEAD, ARGV[i])
    if at then add(ARGV[i], at) end
  end
  return out
end

local old, limit, ms, after = ARGV[1] == 'old', tonumber(ARGV[2]), ARGV[3], ARGV[4]
local range = old and 'ZRANGE' or 'ZREVRANGE'
local from = 0
if after ~= '' then
  if call('ZSCORE', DEAD, after) == ms then
    from = call(old and 'ZRANK' or 'ZREVRANK', DEAD, after) + 1
    after = ''
  else -- it is gone: begin with those of its moment
    from = old and call('ZCOUNT', DEAD, '-inf', '(' .. ms) or call('ZCOUNT', DEAD, '(' .. ms, '+inf')
  end
end

-- comes_after reports whether an entry comes after the one that is gone.
local function comes_after(id, at)
  return after == '' or at ~= ms or old and id > after or not old and id < after
end

while true do
  local got = call(range, DEAD, from, from + 99, 'WITHSCORES')
  for i = 1, #got, 2 do
    if (#out - 2) / 4 >= limit or bytes > 4194304 then
      out[2] = '1'
      return out
    end
    if comes_after(got[i], got[i + 1]) then add(got[i], got[i + 1]) end
  end
  if #got < 200 then return out end
  from = from + 100
end
