-- Locks: the newest grant of each name. A row stays when its lock has ended,
-- since a token is never used again.
CREATE TABLE stem_lock (
	name   TEXT PRIMARY KEY,
	holder TEXT    NOT NULL,
	token  INTEGER NOT NULL,
	ttl    INTEGER NOT NULL, -- ms
	until  INTEGER NOT NULL  -- ms; 0: released
) WITHOUT ROWID;

-- The scheduler's entries: how many changes there were, which those wait for
-- who sleep, and the highest version of an entry that was deleted.
INSERT INTO stem_meta VALUES ('schedules', 0), ('schedule_floor', 0);

CREATE TABLE stem_schedule (
	seq        INTEGER PRIMARY KEY,
	id         TEXT    NOT NULL,
	version    INTEGER NOT NULL, -- raised by changes, not by firings
	updated    INTEGER NOT NULL, -- µs
	next_due   INTEGER NOT NULL, -- ms; 0: never
	next_at    INTEGER NOT NULL, -- ms: next_due with its jitter; 0: never
	last_due   INTEGER NOT NULL, -- ms; 0: none yet
	last_fired INTEGER NOT NULL, -- µs; 0: never yet
	jitter     INTEGER NOT NULL, -- ns
	drift      INTEGER NOT NULL, -- ns
	fired      INTEGER NOT NULL,
	misfired   INTEGER NOT NULL,
	records    INTEGER NOT NULL, -- how many lines its history ever had
	last_task  TEXT    NOT NULL,
	last_error TEXT    NOT NULL,
	definition TEXT    NOT NULL  -- JSON
);
CREATE UNIQUE INDEX stem_schedule_id ON stem_schedule (id);
CREATE INDEX stem_schedule_at ON stem_schedule (next_at, id) WHERE next_at > 0;

-- The history of each entry: a ring of its newest lines.
CREATE TABLE stem_firing (
	schedule INTEGER NOT NULL, -- its seq
	slot     INTEGER NOT NULL, -- number % 100
	number   INTEGER NOT NULL,
	due      INTEGER NOT NULL, -- ms
	fired    INTEGER NOT NULL, -- µs
	outcome  TEXT    NOT NULL,
	jitter   INTEGER NOT NULL, -- ns
	drift    INTEGER NOT NULL, -- ns
	missed   INTEGER NOT NULL,
	task     TEXT    NOT NULL,
	error    TEXT    NOT NULL,
	beat     TEXT    NOT NULL,
	PRIMARY KEY (schedule, slot)
) WITHOUT ROWID;

-- Firings whose tasks are for a broker elsewhere, until it is known what became
-- of them there. They outlive their entry.
CREATE TABLE stem_pending (
	seq      INTEGER PRIMARY KEY AUTOINCREMENT,
	schedule TEXT    NOT NULL, -- its id
	due      INTEGER NOT NULL, -- ms
	record   BLOB    NOT NULL, -- JSON
	envelope BLOB    NOT NULL,
	rest     BLOB    NOT NULL  -- JSON: the publication without its envelope
);
CREATE UNIQUE INDEX stem_pending_due ON stem_pending (schedule, due);
