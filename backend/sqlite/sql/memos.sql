-- name: memo
SELECT value FROM stem_memo WHERE key = ? AND until > ?;

-- name: set-memo
INSERT OR REPLACE INTO stem_memo VALUES (?, ?, ?);

-- name: drop-memo
DELETE FROM stem_memo WHERE key = ?;

-- name: expire-memos
DELETE FROM stem_memo WHERE key IN (SELECT key FROM stem_memo INDEXED BY stem_memo_until WHERE until <= ? LIMIT ?);
