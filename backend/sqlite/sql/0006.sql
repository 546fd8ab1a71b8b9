-- The audit: what people changed, each record for a time.
CREATE TABLE stem_audit (
	at     INTEGER NOT NULL, -- ms
	id     TEXT    NOT NULL,
	until  INTEGER NOT NULL, -- ms
	record BLOB    NOT NULL, -- JSON
	PRIMARY KEY (at, id)
) WITHOUT ROWID;
CREATE INDEX stem_audit_until ON stem_audit (until);
