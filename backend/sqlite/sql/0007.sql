-- The newest moment, in µs, at which a slot of a rate limit was given: a clock that
-- says much less was set back, and the lines go with it.
INSERT INTO stem_meta VALUES ('limit_clock', 0);
