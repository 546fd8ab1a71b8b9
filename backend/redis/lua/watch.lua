-- watch registers a process with the tasks that it watches, for a minute and a
-- half, or takes it off.
--
-- KEYS[1] the partition
-- ARGV    1 the process   2 "1" to watch, "0" to stop   then ids
local process, WATCH = ARGV[1], P .. ':watch'
for i = 3, #ARGV do
  local words = {}
  for other, till in gmatch(call('HGET', WATCH, ARGV[i]) or '', '(%w+)=(%d+)') do
    if other ~= process and tonumber(till) > now then words[#words + 1] = other .. '=' .. till end
  end
  if ARGV[2] == '1' then words[#words + 1] = process .. '=' .. now + 90000 end
  if #words > 0 then
    call('HSET', WATCH, ARGV[i], concat(words, ' '))
  else
    call('HDEL', WATCH, ARGV[i])
  end
end
return 1
