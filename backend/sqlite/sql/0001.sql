-- The first schema. "stem_" stands for the namespace everywhere.

-- schema: the newest step applied. oldest: the oldest schema that a program
-- must know to use this file. seq: the last number given to a task.
CREATE TABLE stem_meta (
	key   TEXT PRIMARY KEY,
	value INTEGER NOT NULL
) WITHOUT ROWID;
INSERT INTO stem_meta VALUES ('schema', 0), ('oldest', 1), ('seq', 0);

-- Queues and what they hold. The counters change in the step that moves a
-- task, so nobody ever counts rows. A row stays when its queue is empty.
CREATE TABLE stem_queue (
	id      INTEGER PRIMARY KEY,
	name    TEXT NOT NULL UNIQUE,
	ready   INTEGER NOT NULL DEFAULT 0,
	delayed INTEGER NOT NULL DEFAULT 0,
	leased  INTEGER NOT NULL DEFAULT 0,
	dead    INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX stem_queue_ready ON stem_queue (id) WHERE ready > 0;

-- Names of workers, so that a task's row has a number only.
CREATE TABLE stem_worker (
	id   INTEGER PRIMARY KEY,
	name TEXT NOT NULL UNIQUE
);

-- Every task that the broker knows, from its publishing to the end of its
-- retention, in one row that is never moved: what changes on the way has the
-- same width, so SQLite overwrites it in place.
CREATE TABLE stem_task (
	seq      INTEGER PRIMARY KEY, -- its place in line; never reused
	id       TEXT    NOT NULL,
	queue    INTEGER NOT NULL,
	rank     INTEGER NOT NULL,    -- 9 - priority: the first comes first
	place    INTEGER NOT NULL,    -- 2 ready, 3 delayed, 4 leased, 5 done, 6 dead
	phase    INTEGER NOT NULL,    -- the state of its status, by index in task.States
	at       INTEGER NOT NULL,    -- ms: ready since, due, leased until, kept until, dead since
	epoch    INTEGER NOT NULL,
	attempt  INTEGER NOT NULL,
	starts   INTEGER NOT NULL,
	base     INTEGER NOT NULL,    -- attempt at the last replay
	replays  INTEGER NOT NULL,
	flags    INTEGER NOT NULL,
	worker   INTEGER NOT NULL,    -- of the newest lease; 0: none yet
	own      INTEGER NOT NULL,    -- ms: its own lease length; 0: the consumer's
	enqueued INTEGER NOT NULL,    -- ms
	envelope BLOB    NOT NULL
);
CREATE UNIQUE INDEX stem_task_id ON stem_task (id);
CREATE INDEX stem_task_list  ON stem_task (enqueued, id);
CREATE INDEX stem_task_ready ON stem_task (queue, rank) WHERE place = 2;
CREATE INDEX stem_task_due   ON stem_task (at, queue)   WHERE place IN (3, 4);
CREATE INDEX stem_task_done  ON stem_task (at)          WHERE place = 5;
CREATE INDEX stem_task_dead  ON stem_task (at)          WHERE place = 6;

-- What a task's row has no room for: written when there is something to say.
CREATE TABLE stem_note (
	seq      INTEGER PRIMARY KEY,
	worker   INTEGER NOT NULL DEFAULT 0,
	started  INTEGER NOT NULL DEFAULT 0, -- µs
	ended    INTEGER NOT NULL DEFAULT 0, -- µs
	replayed INTEGER NOT NULL DEFAULT 0, -- µs
	result   BLOB,
	reason   TEXT,
	errors   BLOB,                       -- JSON: the newest attempts', oldest first
	progress BLOB                        -- JSON
);

-- Keys held by tasks. until 0: until a settlement releases it.
CREATE TABLE stem_claim (
	key   TEXT PRIMARY KEY,
	task  TEXT    NOT NULL,
	until INTEGER NOT NULL -- ms
) WITHOUT ROWID;
CREATE INDEX stem_claim_task  ON stem_claim (task);
CREATE INDEX stem_claim_until ON stem_claim (until) WHERE until > 0;

-- Leased tasks that somebody asked to stop.
CREATE TABLE stem_revoke (
	seq       INTEGER PRIMARY KEY,
	terminate INTEGER NOT NULL,
	reason    TEXT    NOT NULL,
	keep      INTEGER NOT NULL -- ns, as task.Outcome.Keep
);

-- Statuses of tasks whose broker is another store.
CREATE TABLE stem_record (
	id       TEXT PRIMARY KEY,
	enqueued INTEGER NOT NULL, -- ms
	expires  INTEGER NOT NULL, -- ms; 0: never
	status   BLOB    NOT NULL, -- JSON, without the result
	result   BLOB,
	outcome  BLOB,             -- JSON: the stored outcome that a start must see
	outbox   INTEGER NOT NULL  -- ms: when the outcome was stored, until its outbox is cleared; 0: it has none
);
CREATE INDEX stem_record_list    ON stem_record (enqueued, id);
CREATE INDEX stem_record_outbox  ON stem_record (id) WHERE outbox > 0;
CREATE INDEX stem_record_expires ON stem_record (expires) WHERE expires > 0;

CREATE TABLE stem_heartbeat (
	worker  TEXT PRIMARY KEY,
	at      INTEGER NOT NULL, -- µs
	expires INTEGER NOT NULL, -- ms
	beat    BLOB    NOT NULL  -- JSON
);
