-- Paused queues, by their number.
CREATE TABLE stem_pause (
	queue INTEGER PRIMARY KEY,
	note  TEXT    NOT NULL,
	since INTEGER NOT NULL -- ms
);

-- Commands to workers, and what they replied. Their numbers are never reused:
-- a listener goes by them.
CREATE TABLE stem_command (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	until   INTEGER NOT NULL, -- ms: not delivered from then on
	command BLOB    NOT NULL  -- JSON
);
CREATE INDEX stem_command_until ON stem_command (until);
CREATE TABLE stem_reply (
	seq     INTEGER PRIMARY KEY AUTOINCREMENT,
	command TEXT    NOT NULL, -- its id
	until   INTEGER NOT NULL, -- ms: kept until then
	reply   BLOB    NOT NULL  -- JSON
);
CREATE INDEX stem_reply_command ON stem_reply (command, seq);
CREATE INDEX stem_reply_until   ON stem_reply (until);
