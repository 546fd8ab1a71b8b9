-- name: limit
SELECT first, again FROM stem_limit WHERE key = ?;

-- name: set-limit
INSERT OR REPLACE INTO stem_limit VALUES (?, ?, ?, ?);

-- name: expire-limits
DELETE FROM stem_limit WHERE key IN (SELECT key FROM stem_limit INDEXED BY stem_limit_until WHERE until <= ? LIMIT ?);

-- name: limit-clock
SELECT value FROM stem_meta WHERE key = 'limit_clock';

-- name: set-limit-clock
UPDATE stem_meta SET value = ? WHERE key = 'limit_clock';

-- name: step-limits
UPDATE stem_limit SET first = first - ?, again = again - ?, until = until - ?;
