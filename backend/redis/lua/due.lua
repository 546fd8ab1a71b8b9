-- due looks for the entries that are to be fired, and for the firings whose
-- tasks are not known to be enqueued.
--
-- KEYS[1] partition 0
-- ARGV    limit, and how many ms ahead
-- returns { the time in µs, how many changes there were, the ms of the next after
--         these (0: none), { id, entry, … }, { pending firing, … } }; in place of an
--         entry { "foreign", key } where that is not ours
local limit = tonumber(ARGV[1])
local ids = call('ZRANGEBYSCORE', DUES, '-inf', format('%.0f', now + ARGV[2]), 'LIMIT', 0, limit)
local entries = {}
for i = 1, #ids do
  entries[2 * i - 1], entries[2 * i] = ids[i], attempt('HGETALL', ENTRY .. ids[i]) or { 'foreign', ENTRY .. ids[i] }
end
local pending = {}
each(call('ZRANGE', PENDING, 0, limit - 1), function(...)
  for _, firing in ipairs(call('HMGET', FIRINGS, ...)) do
    if firing then pending[#pending + 1] = firing end
  end
end)
local rest = call('ZRANGE', DUES, #ids, #ids, 'WITHSCORES')
return { micros, call('HGET', SCHEDULES, 'changes') or '0', rest[2] or '0', entries, pending }
