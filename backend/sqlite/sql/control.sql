-- name: pauses
SELECT q.name, p.note, p.since FROM stem_pause p JOIN stem_queue q ON q.id = p.queue ORDER BY q.name;

-- name: paused
SELECT queue FROM stem_pause;

-- name: set-pause
INSERT INTO stem_pause VALUES (?, ?, ?) ON CONFLICT (queue) DO UPDATE SET note = iif(excluded.note = '', note, excluded.note);

-- name: delete-pause
DELETE FROM stem_pause WHERE queue = ? RETURNING 1;

-- name: pending-revocations
SELECT r.seq, t.id, t.worker, r.terminate, r.reason FROM stem_revoke r JOIN stem_task t ON t.seq = r.seq
WHERE r.seq > ? ORDER BY r.seq LIMIT ?;

-- name: add-command
INSERT INTO stem_command (until, command) VALUES (?, ?);

-- name: last-command
SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'stem_command';

-- name: commands
SELECT seq, until, command FROM stem_command WHERE seq > ? ORDER BY seq LIMIT 256;

-- name: expire-commands
DELETE FROM stem_command WHERE until <= ?;

-- name: add-reply
INSERT INTO stem_reply (command, until, reply) VALUES (?, ?, ?);

-- name: replies
SELECT seq, reply FROM stem_reply WHERE command = ? AND seq > ? ORDER BY seq LIMIT 256;

-- name: expire-replies
DELETE FROM stem_reply WHERE until <= ?;

-- name: beats
SELECT worker, at, beat FROM stem_heartbeat;
