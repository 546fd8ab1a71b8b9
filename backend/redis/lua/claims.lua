-- claims takes, keeps or drops claims of tasks that lie in other partitions.
--
-- KEYS[1] the partition of the keys
-- ARGV    1 "take", "keep", "drop"   then for each: key, id, ms (0: no time of
--         its own)
-- returns of take, for each: "n BY" it is new, "o BY" it is the task's own already
--         (BY: the ms by which the task has to be stored, 0: there is no hurry),
--         "d ID" that task holds it, "u VALUE" that one does, and if there is no
--         such task it may be dropped (with VALUE for its id) and taken, "f" the key
--         is not ours
--
-- A claim is "ID MS" at first: since when it waits for its task to be stored. That
-- step notes in the outbox that it is to be kept, and it is "ID" then. If its client
-- dies in between, it goes to whoever asks half a minute later, and by itself after a
-- day.
local PATIENCE, IN_TIME, MOST = 30000, 20000, 86400000 -- nodes' clocks may differ by ten seconds
local out = {}

local function take(key, id, ms, value, holder, since)
  if not value then
    call('SET', key, id .. ' ' .. now, 'PX', ms > 0 and ms or MOST)
  elseif holder ~= id then
    local open = since and now > since + PATIENCE or not since and call('PTTL', key) == -1
    return open and 'u ' .. value or 'd ' .. holder
  elseif since then
    call('SET', key, id .. ' ' .. now, 'KEEPTTL')
  else
    return 'o 0'
  end
  return (value and 'o ' or 'n ') .. format('%.0f', now + IN_TIME)
end

for a = 2, #ARGV, 3 do
  local key, id, ms = P .. ':claim:' .. ARGV[a], ARGV[a + 1], tonumber(ARGV[a + 2])
  local value = attempt('GET', key)
  local holder, since = match(value or '', '^(%S*) ?(%d*)$')
  if ARGV[1] == 'take' then
    out[#out + 1] = value == nil and 'f' or take(key, id, ms, value, holder, tonumber(since))
  elseif value and (holder == id or value == id) then
    if ARGV[1] == 'drop' then
      call('DEL', key)
    elseif ms == 0 then
      call('SET', key, id)
    else
      call('SET', key, id, 'KEEPTTL')
    end
  end
end
return out
