-- name: list
SELECT {row}, envelope
FROM stem_task INDEXED BY stem_task_list WHERE (enqueued, id) < (?, ?) AND enqueued >= ? ORDER BY enqueued DESC, id DESC;

-- name: list-records
SELECT status, result, expires, enqueued, id FROM stem_record INDEXED BY stem_record_list
WHERE (enqueued, id) < (?, ?) AND enqueued >= ? ORDER BY enqueued DESC, id DESC;

-- name: record
SELECT status, result, expires, outcome, outbox FROM stem_record WHERE id = ?;

-- name: set-record
INSERT INTO stem_record VALUES (?, ?, ?, ?, ?, ?, ?)
ON CONFLICT (id) DO UPDATE SET expires = excluded.expires, status = excluded.status, result = excluded.result,
	outcome = excluded.outcome, outbox = excluded.outbox;

-- name: delete-record
DELETE FROM stem_record WHERE id = ?;

-- name: expire-records
DELETE FROM stem_record WHERE id IN (SELECT id FROM stem_record INDEXED BY stem_record_expires WHERE expires > 0 AND expires <= ? LIMIT ?);

-- name: heartbeat
SELECT at FROM stem_heartbeat WHERE worker = ? AND expires > ?;

-- name: set-heartbeat
INSERT OR REPLACE INTO stem_heartbeat VALUES (?, ?, ?, ?);

-- name: expire-heartbeats
DELETE FROM stem_heartbeat WHERE expires <= ?;

-- name: heartbeats
SELECT beat FROM stem_heartbeat WHERE expires > ? ORDER BY worker;

-- name: outboxes
SELECT status, result, expires, outcome, outbox FROM stem_record INDEXED BY stem_record_outbox
WHERE outbox > 0 AND id > ? AND outbox < ? ORDER BY id;
