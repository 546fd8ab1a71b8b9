-- Who waits, for exchange.lua and close.lua.

-- wait_here registers a consumer among those that wait, or takes it off. It returns
-- for how long it need not look, and whether it was called and does not know yet.
-- The first two keep the time: they are told 0 while something is due, or a lease
-- ends, in so few ms (below 0: nothing), and look once a second and at that moment.
local function wait_here(consumer, whole, hungry, registered, due)
  local name = consumer .. ' ' .. whole
  if not hungry then
    local called = registered and call('ZREM', IDLE, name) == 0
    if registered then call('HDEL', KEEPERS, consumer) end
    return -1, called
  end
  local keepers, n, mine = call('HGETALL', KEEPERS), 0, false
  for i = 1, #keepers, 2 do
    if keepers[i] == consumer then
      mine = true
    elseif tonumber(keepers[i + 1]) < now then
      call('HDEL', KEEPERS, keepers[i])
    else
      n = n + 1
    end
  end
  local patience
  if mine or n < 2 then
    patience = (due < 0 or due > FAR) and REST or 0
    call('HSET', KEEPERS, consumer, now + (patience > 0 and patience or min(LOOK, due)) + SLACK)
  else
    patience = min(600, call('ZCARD', IDLE) + 1) * 1000
  end
  call('ZADD', IDLE, now + patience + 5000, name)
  return patience
end
