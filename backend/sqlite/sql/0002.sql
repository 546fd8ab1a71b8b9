-- Rate limits: of each key, when the slot after the last one begins, of those
-- who asked first and of those who asked again.
CREATE TABLE stem_limit (
	key   TEXT PRIMARY KEY,
	first INTEGER NOT NULL, -- µs
	again INTEGER NOT NULL, -- µs
	until INTEGER NOT NULL  -- ms: from then on the row says nothing
) WITHOUT ROWID;
CREATE INDEX stem_limit_until ON stem_limit (until);
