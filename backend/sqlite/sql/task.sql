-- {row} stands for the columns that scanRow reads.

-- name: begin
BEGIN IMMEDIATE;

-- name: commit
COMMIT;

-- name: seq
SELECT value FROM stem_meta WHERE key = 'seq';

-- name: set-seq
UPDATE stem_meta SET value = ? WHERE key = 'seq';

-- name: queue-id
SELECT id FROM stem_queue WHERE name = ?;

-- name: add-queue
INSERT INTO stem_queue (name) VALUES (?) RETURNING id;

-- name: queue-name
SELECT name FROM stem_queue WHERE id = ?;

-- name: count
UPDATE stem_queue SET ready = ready + ?, delayed = delayed + ?, leased = leased + ?, dead = dead + ? WHERE id = ?;

-- name: worker-id
SELECT id FROM stem_worker WHERE name = ?;

-- name: add-worker
INSERT INTO stem_worker (name) VALUES (?) RETURNING id;

-- name: worker-name
SELECT name FROM stem_worker WHERE id = ?;

-- name: insert
INSERT OR IGNORE INTO stem_task VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: by-seq
SELECT {row}
FROM stem_task WHERE seq = ?;

-- name: by-id
SELECT {row}
FROM stem_task WHERE id = ?;

-- name: full-by-id
SELECT {row}, envelope
FROM stem_task WHERE id = ?;

-- name: save
UPDATE stem_task SET place = ?, phase = ?, at = ?, epoch = ?, attempt = ?, starts = ?, base = ?, replays = ?, flags = ?, worker = ?
WHERE seq = ?;

-- name: envelope
SELECT envelope FROM stem_task WHERE seq = ?;

-- name: set-envelope
UPDATE stem_task SET envelope = ? WHERE seq = ?;

-- name: delete
DELETE FROM stem_task WHERE seq = ?;

-- name: ready
SELECT {row}, envelope
FROM stem_task INDEXED BY stem_task_ready WHERE place = 2 AND queue = ? ORDER BY rank, seq LIMIT ?;

-- name: any-ready
SELECT 1 FROM stem_task INDEXED BY stem_task_ready WHERE place = 2 AND queue = ? LIMIT 1;

-- name: ready-queues
SELECT id, name FROM stem_queue INDEXED BY stem_queue_ready WHERE ready > 0;

-- name: due
SELECT {row}
FROM stem_task INDEXED BY stem_task_due WHERE place IN (3, 4) AND at <= ? ORDER BY at, queue LIMIT ?;

-- name: next
SELECT at, queue FROM stem_task INDEXED BY stem_task_due WHERE place IN (3, 4) ORDER BY at, queue LIMIT ?;

-- name: due-soon
SELECT queue, count(*) FROM (
	SELECT queue FROM stem_task INDEXED BY stem_task_due WHERE place IN (3, 4) AND place = 3 AND at <= ? LIMIT ?
) GROUP BY queue;

-- name: due-soon-of
SELECT count(*) FROM (
	SELECT 1 FROM stem_task INDEXED BY stem_task_due WHERE place IN (3, 4) AND place = 3 AND at <= ? AND queue = ? LIMIT ?
);

-- name: delayed-of
SELECT {row}
FROM stem_task INDEXED BY stem_task_due WHERE place IN (3, 4) AND place = 3 AND queue = ? ORDER BY at, queue LIMIT ?;

-- name: expired
SELECT {row}
FROM stem_task INDEXED BY stem_task_done WHERE place = 5 AND at <= ? ORDER BY at LIMIT ?;

-- name: note
SELECT worker, started, ended, replayed, result, reason, errors, progress FROM stem_note WHERE seq = ?;

-- name: set-note
INSERT OR REPLACE INTO stem_note VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: delete-note
DELETE FROM stem_note WHERE seq = ?;

-- name: claim
SELECT task, until FROM stem_claim WHERE key = ?;

-- name: set-claim
INSERT OR REPLACE INTO stem_claim VALUES (?, ?, ?);

-- name: release-claim
DELETE FROM stem_claim WHERE key = ? AND task = ?;

-- name: release-claims
DELETE FROM stem_claim WHERE task = ? AND until = 0;

-- name: expire-claims
DELETE FROM stem_claim WHERE key IN (SELECT key FROM stem_claim INDEXED BY stem_claim_until WHERE until > 0 AND until <= ? LIMIT ?);

-- name: revocations
SELECT seq, terminate, reason FROM stem_revoke;

-- name: revocation
SELECT terminate, reason, keep FROM stem_revoke WHERE seq = ?;

-- name: set-revocation
INSERT INTO stem_revoke VALUES (?, ?, ?, ?)
ON CONFLICT (seq) DO UPDATE SET terminate = max(terminate, excluded.terminate), reason = excluded.reason, keep = excluded.keep;

-- name: delete-revocation
DELETE FROM stem_revoke WHERE seq = ?;

-- name: queues
SELECT id, name, ready, delayed, leased, dead FROM stem_queue WHERE ready + delayed + leased + dead > 0 ORDER BY name;

-- name: queue
SELECT id, name, ready, delayed, leased, dead FROM stem_queue WHERE name = ?;

-- name: oldest
SELECT at FROM stem_task INDEXED BY stem_task_ready WHERE place = 2 AND queue = ? AND rank = ? ORDER BY seq LIMIT ?;

-- name: next-rank
SELECT rank FROM stem_task INDEXED BY stem_task_ready WHERE place = 2 AND queue = ? AND rank >= ? ORDER BY rank LIMIT 1;

-- name: dead
SELECT {row}, envelope
FROM stem_task INDEXED BY stem_task_dead WHERE place = 6 AND (at, seq) < (?, ?) ORDER BY at DESC, seq DESC;

-- name: dead-oldest
SELECT {row}, envelope
FROM stem_task INDEXED BY stem_task_dead WHERE place = 6 AND (at, seq) > (?, ?) ORDER BY at, seq;
