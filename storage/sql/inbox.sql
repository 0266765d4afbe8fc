-- name: keep
-- A message of a provider, kept as it came; no row for one that was kept before. What was refused, for it may have been
-- anybody's, makes way.
WITH heard AS (
    UPDATE call_line SET heard_at = now() WHERE tenant_id = $1 AND id = $2 AND (heard_at IS NULL OR heard_at < now() - interval '5 s')
)
INSERT INTO webhook_inbox (tenant_id, line_id, once, kind, query, headers, body, ip)
VALUES ($1, $2, $3, $4, $5::text::json, $6::text::json, $7, $8)
ON CONFLICT (line_id, once) DO UPDATE
SET kind = excluded.kind, query = excluded.query, headers = excluded.headers, body = excluded.body, ip = excluded.ip,
    received_at = now(), state = 'new', tries = 0, next_at = now(), asks = false, problem = NULL
WHERE webhook_inbox.state = 'refused'
RETURNING id;

-- name: due
-- Claim, in the whole installation, messages that are to be read now ($3: for whose recordings is to be asked): at most
-- $2, and of each line as many, its oldest, as there is room for beside those that the worker reads already ($5, $6).
-- Lines come in no order, so that none waits for another's backlog.
WITH due AS MATERIALIZED (
    SELECT x.id
    FROM (
        SELECT w.id, $4::integer - coalesce(b.how_many, 0) AS room
        FROM call_line w
        LEFT JOIN unnest($5::text[], $6::integer[]) AS b (line_id, how_many) ON b.line_id = w.id
        WHERE EXISTS (
            SELECT FROM webhook_inbox y WHERE y.line_id = w.id AND y.state = 'new' AND y.next_at <= now() AND y.asks = $3)
        ORDER BY random()
    ) l
    CROSS JOIN LATERAL (
        SELECT y.id FROM webhook_inbox y
        WHERE y.line_id = l.id AND y.state = 'new' AND y.next_at <= now() AND y.asks = $3
        ORDER BY y.next_at, y.id
        LIMIT greatest(l.room, 0)
        FOR UPDATE SKIP LOCKED
    ) x
    LIMIT $2
)
UPDATE webhook_inbox i SET next_at = now() + make_interval(secs => $1::float8), tries = tries + 1
FROM due
WHERE i.id = due.id
RETURNING i.id, i.tenant_id, i.line_id, i.kind, i.query, i.headers, i.body, i.received_at, i.tries, i.asks;

-- name: settle
-- What became of a message. Nobody verifies it any more: its headers, which may hold a password of pushes, go.
UPDATE webhook_inbox SET state = $3, problem = $4, next_at = NULL, headers = '{}' WHERE tenant_id = $1 AND id = $2;

-- name: ask
-- What it tells is applied, but for a recording that it names: for that its provider is asked, beside the reading.
UPDATE webhook_inbox SET next_at = now(), tries = 0, asks = true WHERE tenant_id = $1 AND id = $2;

-- name: put_off
-- Read it again in a while.
UPDATE webhook_inbox SET next_at = now() + make_interval(secs => $3::float8), problem = $4 WHERE tenant_id = $1 AND id = $2;

-- name: expire
-- Drop, in the whole installation, a batch of messages that were settled long ago.
DELETE FROM webhook_inbox WHERE id = ANY (ARRAY(
    SELECT id FROM webhook_inbox
    WHERE state <> 'new' AND received_at < now() - make_interval(secs => $1::float8)
    ORDER BY received_at LIMIT 5000
));
