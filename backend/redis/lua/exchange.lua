-- exchange settles, renews and receives, in one step: a worker's outcome, the
-- follow-ups of it and the next tasks cannot come apart, and no lease passes to
-- two.
--
-- KEYS[1] the partition
-- ARGV    1 the consumer's name, "" without one   2 its worker
--         3 lease in ms   4 deliveries wanted, -1: only
--         to wait for them   5 bytes wanted, 0: any
--         6 the order of queues   7 the whole subscription   8 turn
--         9 what the consumer believes: "w" it is registered as waiting,
--           "c" it was called, "n" it holds something; "s" also the first delivery must fit
--         10 settlements   11 renewals   then their ids, then for each
--         settlement EPOCH KIND BODY EXTRA (see settle_slow), and for each
--         renewal EPOCH EXTEND START WORKER PROGRESS
-- returns settled (a letter each: o done, l lease lost, f not done: it needs a key
--         that is not ours), renewed (also v: asked
--         to stop), news, the first epoch and the time in ms, and such a key, if one
--         was met, ms until the next look (0: unknown),
--         1 if more is ready, ms that others keep the time, entries that were
--         skipped, then id, value and run record of each delivery
local consumer, want = ARGV[1], tonumber(ARGV[4])
local nsettle, nrenew = tonumber(ARGV[10]), tonumber(ARGV[11])
local settled, renewed, news = '', '', ''
local paused = {}
if consumer ~= '' then -- first: what cannot be read must not be seen amid changes
  local pauses = call('HKEYS', P .. ':pauses')
  for i = 1, #pauses do paused[pauses[i]] = true end
end
if nsettle + nrenew > 0 then
  local lines = call('HMGET', RUN, unpack(ARGV, 12, 11 + nsettle + nrenew))
  local a = 12 + nsettle + nrenew
  settled, a = settle_all(lines, 12, nsettle, a)
  renewed = renew_all(lines, 12 + nsettle, nrenew, a, nsettle)
  write_gone()
end
local answer = { settled, renewed, news, '0', 0, 0, 0, 0 }
if consumer ~= '' then
  local order, whole, believed = ARGV[6], ARGV[7], ARGV[9]
  local due, lapse = move_due(max(want, 1)), take_back()
  write_ready()
  local more
  if want > 0 then
    bytes, strict = tonumber(ARGV[5]), find(believed, 's', 1, true)
    room = bytes > 0 and bytes or math.huge
    take_all(order, want, tonumber(ARGV[8]), paused)
    answer[4] = string.format('%.0f', lease(answer, consumer, ARGV[2], ARGV[3]))
  end
  if want <= 0 or #taken >= want or room < 0 then more = left(whole, paused) end
  local next = min(due or 1e13, lapse or 1e13, first_end)
  answer[5] = next < 1e13 and max(0, next - now) or -1
  answer[6], answer[8] = more and 1 or 0, stale
  if find(believed, 'n', 1, true) or #taken > 0 then
    news = call('HGET', P .. ':news', consumer)
    if news then
      answer[3] = news
      call('HDEL', P .. ':news', consumer)
    end
  end
  local hungry = want > 0 and #taken < want and room >= 0 or want < 0 and not more
  local called
  answer[7], called = wait_here(consumer, whole, hungry, find(believed, 'w', 1, true), answer[5])
  if want < 0 then
    touched[more or ''] = nil -- it looks again itself
  elseif more and (#taken > 0 or called or find(believed, 'c', 1, true)) then
    call_for(more, 1, consumer)
    touched[more] = nil
  end
end
if end_queue then call_keeper(end_queue, first_end, consumer) end -- who takes them over if it dies
write_ready()
write_journal()
write_counts()
call_touched(consumer, #taken > 0)
tell_changes()
answer[4] = answer[4] .. ' ' .. now
if foreign then answer[4] = answer[4] .. ' ' .. foreign end
return answer
