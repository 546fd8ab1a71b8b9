-- once has the marks of publications that came from outboxes end soon: they were
-- removed there, and who has read them before that is done with them by then.
--
-- KEYS[1] the partition
-- ARGV    ids
for i = 1, #ARGV do redis.call('PEXPIRE', KEYS[1] .. ':once:' .. ARGV[i], 60000) end
return 1
