-- tell publishes a message with its number, and the moment until which it may be
-- delivered.
--
-- KEYS[1] the partition (the first)
-- ARGV    1 the channel   2 ms that it may be delivered   3 the message
return call('PUBLISH', ARGV[1], call('INCR', P .. ':told') .. ' ' .. format('%.0f', now + ARGV[2]) .. ' ' .. ARGV[3])
