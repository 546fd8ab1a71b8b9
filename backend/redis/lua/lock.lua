-- lock grants, renews, ends and shows a lock: to look whether another holds it,
-- to give it, and to count its token are one step.
--
-- KEYS[1] partition 0
-- ARGV    "acquire" NAME HOLDER TTL: returns { token }, or { 0, holder, ms left }
--         "release" NAME TOKEN: returns { 1 }, or { 0 } when it is not the newest
--         "holder" NAME: returns { token, holder, ms left }, or { 0 }
local op, key = ARGV[1], P .. ':lock:' .. ARGV[2]
local l = call('HMGET', key, 'holder', 'token', 'ttl', 'until')
local lasts = left(l[3], l[4])
if op == 'holder' then
  if lasts == 0 then return { 0 } end
  return { tonumber(l[2]), l[1], lasts }
end
if op == 'release' then
  if l[2] ~= ARGV[3] then return { 0 } end
  call('HSET', key, 'until', 0)
  return { 1 }
end
if lasts > 0 and l[1] ~= ARGV[3] then return { 0, l[1], lasts } end
if lasts == 0 then call('HINCRBY', key, 'token', 1) end
-- Its first millisecond has begun already.
call('HSET', key, 'holder', ARGV[3], 'ttl', ARGV[4], 'until', now + ARGV[4] + 1)
return { tonumber(call('HGET', key, 'token')) }
