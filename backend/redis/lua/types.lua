-- types looks for a key of another type among those that have no queue, task or
-- claim in their name: without them nothing of the partition works.
--
-- KEYS[1] the partition
-- returns its name, or ""
local P = KEYS[1]
for _, kind in ipairs({
  { 'epoch version told', 'GETRANGE', 0, 0 },
  { 'meta run filled count rev news pauses beats audit:r keepers watch sweeping schedules pending:firings', 'HEXISTS', 'x' },
  { 'lease due dead idle fresh audit audit:u journal sweep outbox s-outbox entries entries:due pending', 'ZCARD' },
}) do
  for name in string.gmatch(kind[1], '%S+') do
    local out = redis.pcall(kind[2], P .. ':' .. name, unpack(kind, 3))
    if type(out) == 'table' and out.err then
      if not string.find(out.err, 'WRONGTYPE', 1, true) then return out end
      return P .. ':' .. name
    end
  end
end
return ''
