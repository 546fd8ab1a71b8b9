-- Memos: values that any process may ask for, each for a time.
CREATE TABLE stem_memo (
	key   TEXT PRIMARY KEY,
	value BLOB    NOT NULL,
	until INTEGER NOT NULL -- ms
);
CREATE INDEX stem_memo_until ON stem_memo (until);
