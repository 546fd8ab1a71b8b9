-- What every script begins with. KEYS[1] is the partition's tag, "{stem:0}":
-- every key that a script touches begins with it, so all of them lie in one
-- slot of a Cluster. docs/redis.md describes the keys.
--
-- All moments are the server's, in milliseconds. Numbers stay below 10^14, up
-- to which Lua writes them without an exponent.
local call, P = redis.call, KEYS[1]
local find, sub, match, gmatch, gsub, byte, char =
  string.find, string.sub, string.match, string.gmatch, string.gsub, string.byte, string.char
local concat, unpack, tonumber, min, max, floor = table.concat, unpack, tonumber, math.min, math.max, math.floor
local format = string.format
local clock = call('TIME')
local now = clock[1] * 1000 + floor(clock[2] / 1000)
