-- outbox removes what was delivered to other partitions, and returns what is
-- left and old: whoever wrote it is gone.
--
-- KEYS[1] the partition
-- ARGV    1 ms that it has waited at least   then what to remove
for a = 2, #ARGV, 4000 do call('ZREM', P .. ':outbox', unpack(ARGV, a, min(a + 3999, #ARGV))) end
return call('ZRANGEBYSCORE', P .. ':outbox', '-inf', now - ARGV[1], 'LIMIT', 0, 100)
