-- Who waits, for exchange.lua and close.lua.

-- wait_here registers a consumer among those that wait, or takes it off. The
-- first two are told 0: they keep the time, and look once a second. The others
-- are told for how long they need not look. It returns also whether the consumer
-- was called and does not know yet.
local function wait_here(consumer, whole, hungry, registered)
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
  local patience = 0
  if mine or n < 2 then
    call('HSET', KEEPERS, consumer, now + 2500)
  else
    patience = min(600, call('ZCARD', IDLE) + 1) * 1000
  end
  call('ZADD', IDLE, now + patience + 5000, name)
  return patience
end
