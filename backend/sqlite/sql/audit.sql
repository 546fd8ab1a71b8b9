-- name: note-action
INSERT OR IGNORE INTO stem_audit VALUES (?, ?, ?, ?);

-- name: actions
SELECT record FROM stem_audit WHERE (at, id) < (?, ?) AND until > ? ORDER BY at DESC, id DESC;

-- name: expire-audit
DELETE FROM stem_audit WHERE (at, id) IN (SELECT at, id FROM stem_audit INDEXED BY stem_audit_until WHERE until <= ? LIMIT ?);
