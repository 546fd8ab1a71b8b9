-- limit takes slots of rate limits, in the order in which they are asked for.
--
-- KEYS[1] the partition
-- ARGV    for each: key, µs between two slots, µs that a slot may come early,
--         "1" for the line of those who ask again
-- returns now and then the moment of each slot, in µs since 1970; -1: its key is not
--         ours
--
-- A key's value is "FIRST AGAIN SEEN": when the slot after the last one begins, of
-- each line, and the newest moment at which one was asked for. Where the clock was
-- set back since then by more than a second, the lines go back with it. Numbers of µs
-- are exact in Lua, but must be written with a format.
local micros = clock[1] * 1000000 + clock[2]
local out, lines = { format('%.0f', micros) }, {}
for a = 1, #ARGV, 4 do
  local key = P .. ':limit:' .. ARGV[a]
  local line = lines[key]
  if not line then
    local value = attempt('GET', key)
    local first, again, seen = match(value or '', '^(%d+) (%d+) ?(%d*)$')
    line = { tonumber(first or 0), tonumber(again or 0), max(micros, tonumber(seen) or 0) }
    local back = line[3] - micros
    if back > 1000000 then line = { max(0, line[1] - back), max(0, line[2] - back), micros } end
    line.foreign = value == nil
    lines[key] = line
  end
  local which, early = 1, tonumber(ARGV[a + 2])
  if ARGV[a + 3] == '1' then which, early = 2, 0 end
  out[#out + 1] = line.foreign and '-1' or format('%.0f', max(micros, line[which] - early))
  line[which] = max(micros, line[which]) + ARGV[a + 1]
end
for key, line in pairs(lines) do
  local left = max(1, floor((max(line[1], line[2]) - micros) / 1000) + 1)
  if not line.foreign then call('SET', key, format('%.0f %.0f %.0f', line[1], line[2], line[3]), 'PX', format('%.0f', left)) end
end
return out
