-- name: keep
-- A message of a provider, kept as it came; no row for one that was kept before.
WITH heard AS (
    UPDATE call_line SET heard_at = now() WHERE tenant_id = $1 AND id = $2 AND (heard_at IS NULL OR heard_at < now() - interval '5 s')
)
INSERT INTO webhook_inbox (tenant_id, line_id, once, kind, query, headers, body, ip)
VALUES ($1, $2, $3, $4, $5::text::json, $6::text::json, $7, $8)
ON CONFLICT (line_id, once) DO NOTHING
RETURNING id;

-- name: due
-- Claim, in the whole installation, messages that are to be read now, oldest first.
UPDATE webhook_inbox i SET next_at = now() + make_interval(secs => $1::float8), tries = tries + 1
FROM (
    SELECT id FROM webhook_inbox WHERE state = 'new' AND next_at <= now() ORDER BY next_at, id LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE i.id = due.id
RETURNING i.id, i.tenant_id, i.line_id, i.kind, i.query, i.headers, i.body, i.received_at, i.tries;

-- name: settle
-- What became of a message. Nobody verifies it any more: its headers, which may hold a password of pushes, go.
UPDATE webhook_inbox SET state = $3, problem = $4, next_at = NULL, headers = '{}' WHERE tenant_id = $1 AND id = $2;

-- name: put_off
-- Read it again in a while.
UPDATE webhook_inbox SET next_at = now() + make_interval(secs => $3::float8), problem = $4 WHERE tenant_id = $1 AND id = $2;

-- name: expire
-- Drop, in the whole installation, messages that were settled long ago, at most 5,000 at once.
DELETE FROM webhook_inbox WHERE id IN (
    SELECT id FROM webhook_inbox WHERE state <> 'new' AND received_at < now() - make_interval(secs => $1::float8) LIMIT 5000
);
