-- {entry} stands for the columns that scanEntry reads.

-- name: lock
SELECT holder, token, ttl, until FROM stem_lock WHERE name = ?;

-- name: set-lock
INSERT OR REPLACE INTO stem_lock VALUES (?, ?, ?, ?, ?);

-- name: release-lock
UPDATE stem_lock SET until = 0 WHERE name = ?;

-- name: schedule-changes
SELECT value FROM stem_meta WHERE key = 'schedules';

-- name: count-schedule-change
UPDATE stem_meta SET value = value + 1 WHERE key = 'schedules';

-- name: schedule-floor
SELECT value FROM stem_meta WHERE key = 'schedule_floor';

-- name: raise-schedule-floor
UPDATE stem_meta SET value = max(value, ?) WHERE key = 'schedule_floor';

-- name: schedule
SELECT {entry} FROM stem_schedule WHERE id = ?;

-- name: schedules
SELECT {entry} FROM stem_schedule WHERE id > ? ORDER BY id LIMIT ?;

-- name: schedules-due
SELECT {entry} FROM stem_schedule INDEXED BY stem_schedule_at WHERE next_at > 0 ORDER BY next_at, id LIMIT ?;

-- name: add-schedule
INSERT INTO stem_schedule (id, version, updated, next_due, next_at, last_due, last_fired, jitter, drift, fired, misfired, records,
	last_task, last_error, definition) VALUES (?, ?, ?, ?, ?, 0, 0, 0, 0, 0, 0, 0, '', '', ?) RETURNING seq;

-- name: change-schedule
UPDATE stem_schedule SET version = ?, updated = ?, next_due = ?, next_at = ?, definition = ? WHERE seq = ?;

-- name: claim-schedule
UPDATE stem_schedule SET next_due = ?, next_at = ?, last_due = ?, last_fired = ?, jitter = ?, drift = ?, fired = ?, misfired = ?,
	records = ?, last_task = ?, last_error = ? WHERE seq = ?;

-- name: mark-schedule
UPDATE stem_schedule SET fired = ?, records = ?, last_task = ?, last_error = ? WHERE seq = ?;

-- name: delete-schedule
DELETE FROM stem_schedule WHERE seq = ?;

-- name: set-firing
INSERT OR REPLACE INTO stem_firing VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?);

-- name: finish-firing
UPDATE stem_firing SET outcome = ?, task = ?, error = ? WHERE schedule = ? AND due = ? AND outcome = 'pending';

-- name: firings
SELECT due, fired, outcome, jitter, drift, missed, task, error, beat FROM stem_firing WHERE schedule = ? ORDER BY number DESC LIMIT ?;

-- name: delete-firings
DELETE FROM stem_firing WHERE schedule = ?;

-- name: set-pending
INSERT OR REPLACE INTO stem_pending (schedule, due, record, envelope, rest) VALUES (?, ?, ?, ?, ?);

-- name: pending
SELECT record FROM stem_pending WHERE schedule = ? AND due = ?;

-- name: all-pending
SELECT seq, schedule, due, record, envelope, rest FROM stem_pending ORDER BY seq;

-- name: delete-pending
DELETE FROM stem_pending WHERE schedule = ? AND due = ?;
