-- Each statement returns a line of text for each violation of one invariant.
-- Numbers of places and flags are those of row.go.

-- name: check-counters
SELECT 'queue ' || q.name || ': its counters say ready ' || q.ready || ', delayed ' || q.delayed || ', leased ' || q.leased
	|| ', dead ' || q.dead || '; its rows say ' || coalesce(t.ready, 0) || ', ' || coalesce(t.delayed, 0) || ', '
	|| coalesce(t.leased, 0) || ', ' || coalesce(t.dead, 0)
FROM stem_queue q LEFT JOIN (
	SELECT queue, sum(place = 2) AS ready, sum(place = 3) AS delayed, sum(place = 4) AS leased, sum(place = 6) AS dead
	FROM stem_task GROUP BY queue
) t ON t.queue = q.id
WHERE q.ready <> coalesce(t.ready, 0) OR q.delayed <> coalesce(t.delayed, 0)
	OR q.leased <> coalesce(t.leased, 0) OR q.dead <> coalesce(t.dead, 0);

-- name: check-places
SELECT 'task ' || id || ': place ' || place || ' and state ' || phase || ' do not go together'
FROM stem_task WHERE NOT CASE place
	WHEN 2 THEN phase IN (0, 2) OR phase = 1 AND flags & 2
	WHEN 3 THEN phase IN (0, 2)
	WHEN 4 THEN phase IN (0, 1, 2)
	WHEN 5 THEN phase IN (3, 5)
	WHEN 6 THEN phase = 4
	ELSE 0 END;

-- name: check-leases
SELECT 'task ' || t.id || ': it is leased without epoch, end or worker'
FROM stem_task t LEFT JOIN stem_worker w ON w.id = t.worker
WHERE t.place = 4 AND (t.epoch < 1 OR t.at < 1 OR w.id IS NULL);

-- name: check-starts
SELECT 'task ' || id || ': it is running and was not started' FROM stem_task WHERE phase = 1 AND starts < 1;

-- name: check-numbers
SELECT 'task ' || id || ': a number is out of range'
FROM stem_task WHERE rank NOT BETWEEN 0 AND 9 OR epoch < 0 OR attempt < 0 OR starts < 0 OR base > attempt OR replays < 0;

-- name: check-seq
SELECT 'task ' || id || ': its place in line is past the last one given'
FROM stem_task WHERE seq > (SELECT value FROM stem_meta WHERE key = 'seq');

-- name: check-queues
SELECT 'task ' || t.id || ': its queue ' || t.queue || ' is not there'
FROM stem_task t LEFT JOIN stem_queue q ON q.id = t.queue WHERE q.id IS NULL;

-- name: check-envelopes
SELECT 'task ' || id || ': it has no envelope' FROM stem_task WHERE length(envelope) = 0;

-- name: check-dead
SELECT 'dead letter ' || t.id || ': it has no note of its end'
FROM stem_task t LEFT JOIN stem_note n ON n.seq = t.seq WHERE t.place = 6 AND coalesce(n.ended, 0) = 0;

-- name: check-notes
SELECT 'task ' || id || ': its note is missing'
FROM stem_task t WHERE t.flags & 16 AND NOT EXISTS (SELECT 1 FROM stem_note n WHERE n.seq = t.seq);

-- name: check-notes-of
SELECT 'note ' || n.seq || ': it belongs to no task'
FROM stem_note n WHERE NOT EXISTS (SELECT 1 FROM stem_task t WHERE t.seq = n.seq AND t.flags & 16);

-- name: check-claims
SELECT 'claim ' || c.key || ': task ' || c.task || ', which holds it until its end, is over or not there'
FROM stem_claim c WHERE c.until = 0
	AND NOT EXISTS (SELECT 1 FROM stem_task t WHERE t.id = c.task AND t.place < 5 AND t.flags & 32);

-- name: check-revocations
SELECT 'revocation ' || r.seq || ': no leased task is revoked by it'
FROM stem_revoke r WHERE NOT EXISTS (SELECT 1 FROM stem_task t WHERE t.seq = r.seq AND t.place = 4 AND t.flags & 64);

-- name: check-revoked
SELECT 'task ' || id || ': its revocation is missing'
FROM stem_task t WHERE t.flags & 64 AND NOT EXISTS (SELECT 1 FROM stem_revoke r WHERE r.seq = t.seq);

-- name: check-ids
SELECT 'task ' || t.id || ': it is held here and recorded as held elsewhere'
FROM stem_record r JOIN stem_task t ON t.id = r.id;

-- name: check-records
SELECT 'record ' || id || ': its status cannot be read'
FROM stem_record WHERE NOT json_valid(status) OR status ->> 'id' IS NOT id OR outcome IS NOT NULL AND NOT json_valid(outcome);

-- name: check-outboxes
SELECT 'record ' || id || ': it has an outbox without an outcome, or expires with one'
FROM stem_record WHERE outbox > 0 AND (outcome IS NULL OR expires > 0);

-- name: check-locks
SELECT 'lock ' || name || ': its token is ' || token FROM stem_lock WHERE token < 1 OR holder = '';

-- name: check-schedules
SELECT 'schedule ' || id || ': version ' || version || ', due at ' || next_due || ', looked at at ' || next_at || ', after ' || last_due
FROM stem_schedule WHERE version < 1 OR (next_due = 0) <> (next_at = 0) OR next_due > 0 AND next_due <= last_due OR last_due > 0 AND records < 1;

-- name: check-definitions
SELECT 'schedule ' || id || ': its definition cannot be read' FROM stem_schedule WHERE NOT json_valid(definition);

-- name: check-firings
SELECT 'schedule ' || coalesce(s.id, f.schedule) || ': line ' || f.number || ' of its history is in slot ' || f.slot
FROM stem_firing f LEFT JOIN stem_schedule s ON s.seq = f.schedule
WHERE s.seq IS NULL OR f.slot <> f.number % 100 OR f.number >= s.records;

-- name: check-pending
SELECT 'schedule ' || s.id || ': its firing of ' || f.due || ' says that it is pending, and is not'
FROM stem_firing f JOIN stem_schedule s ON s.seq = f.schedule
WHERE f.outcome = 'pending' AND NOT EXISTS (SELECT 1 FROM stem_pending p WHERE p.schedule = s.id AND p.due = f.due);

-- name: check-pending-rows
SELECT 'pending firing ' || schedule || ' of ' || due || ': it is not pending'
FROM stem_pending WHERE json_valid(record) AND record ->> 'outcome' IS NOT 'pending';
