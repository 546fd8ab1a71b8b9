-- audits reads records of what was changed, the newest first.
--
-- KEYS[1] the partition (the first)
-- ARGV    1 the place that the page comes after, "" for the first   2 at most so
--         many
-- returns the place of the last one looked at ("": there are no more), then the
-- records as JSON that are not past their time
local from = ARGV[1] == '' and '+' or '(' .. ARGV[1]
local places = call('ZREVRANGEBYLEX', P .. ':audit', from, '-', 'LIMIT', 0, ARGV[2])
local out = { #places == tonumber(ARGV[2]) and places[#places] or '' }
if #places == 0 then return out end
for _, record in ipairs(call('HMGET', P .. ':audit:r', unpack(places))) do
  local till, json = match(record or '', '^(%d+) (.*)$')
  if till and tonumber(till) > now then out[#out + 1] = json end
end
return out
