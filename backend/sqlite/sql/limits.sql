-- name: limit
SELECT first, again FROM stem_limit WHERE key = ?;

-- name: set-limit
INSERT OR REPLACE INTO stem_limit VALUES (?, ?, ?, ?);

-- name: expire-limits
DELETE FROM stem_limit WHERE key IN (SELECT key FROM stem_limit INDEXED BY stem_limit_until WHERE until <= ? LIMIT ?);
