-- name: lease
-- Lend the next free extension of a line to a call, by the line's policy; no row where none is free. Numbers go round
-- by length, then by text, which counts upwards where all are digits. Nobody is lent the extension that is the seat of
-- an agent at Infinity. The lease is counted from the last moment ($5) at which the call's order may be written.
WITH free AS (
    SELECT e.id
    FROM extension e
    JOIN call_line l ON l.tenant_id = e.tenant_id AND l.id = e.line_id
    WHERE e.tenant_id = $1 AND e.line_id = $2 AND e.status = 'available' AND (e.cool_until IS NULL OR e.cool_until <= now())
        AND NOT (l.provider = 'infinity' AND EXISTS (
            SELECT FROM line_seat s WHERE s.tenant_id = $1 AND s.line_id = $2 AND s.seat_id = e.number))
    ORDER BY
        CASE l.extension_policy
            WHEN 'affinity' THEN e.last_user_id IS DISTINCT FROM $3
            WHEN 'round_robin' THEN (length(e.number), e.number) <= (length(l.last_extension), l.last_extension)
        END,
        CASE WHEN l.extension_policy = 'round_robin' THEN length(e.number) END,
        CASE WHEN l.extension_policy = 'round_robin' THEN e.number END,
        e.last_used_at NULLS FIRST, e.number
    LIMIT 1
    FOR NO KEY UPDATE OF e SKIP LOCKED
),
leased AS (
    UPDATE extension e
    SET status = 'in_use', user_id = $3, last_user_id = $3, call_id = $4, fence = fence + 1, uses = uses + 1,
        lease_until = $5::timestamptz + make_interval(secs => $6::float8), cool_until = NULL, last_used_at = clock_timestamp()
    FROM free WHERE e.id = free.id
    RETURNING e.number, e.fence
),
turned AS (
    UPDATE call_line SET last_extension = leased.number FROM leased
    WHERE tenant_id = $1 AND id = $2 AND extension_policy = 'round_robin'
)
SELECT number, fence FROM leased;

-- name: give_back
-- The provider refused an order, definitely and before anything rang: the call needs its extension no more. Where it was
-- for the extension's sake, nobody is lent it for a while. The call is locked first; one that rang all the same keeps it.
WITH held AS (SELECT id FROM call WHERE tenant_id = $1 AND id = $2 AND status = 'pending' FOR NO KEY UPDATE),
given_back AS (
    UPDATE extension e
    SET status = 'available', user_id = NULL, call_id = NULL, lease_until = NULL, cool_until = CASE
        WHEN $4 = 'extension' THEN now() + interval '5 min'
        WHEN $4 IN ('seat_busy', 'seat_offline') THEN now() + interval '15 s'
    END
    FROM attempt a JOIN held ON held.id = a.call_id
    WHERE a.tenant_id = $1 AND a.n = $3 AND e.call_id = a.call_id AND e.line_id = a.line_id AND e.fence = a.extension_fence
)
SELECT count(*) > 0 FROM held;

-- name: ending
-- Claim, in the whole installation, leases that have come to their end: at most $2, and of each line as many as there is
-- room for beside those that the worker asks of already ($4, $5). The claim is their renewal.
WITH due AS MATERIALIZED (
    SELECT x.id
    FROM (
        SELECT w.id, $3::integer - coalesce(b.how_many, 0) AS room
        FROM call_line w
        LEFT JOIN unnest($4::text[], $5::integer[]) AS b (line_id, how_many) ON b.line_id = w.id
        WHERE EXISTS (SELECT FROM extension y WHERE y.line_id = w.id AND y.status = 'in_use' AND y.lease_until <= now())
        ORDER BY random()
    ) l
    CROSS JOIN LATERAL (
        SELECT y.id FROM extension y
        WHERE y.line_id = l.id AND y.status = 'in_use' AND y.lease_until <= now()
        ORDER BY y.lease_until
        LIMIT greatest(l.room, 0)
        FOR NO KEY UPDATE SKIP LOCKED
    ) x
    LIMIT $2
)
UPDATE extension e SET lease_until = now() + make_interval(secs => $1::float8)
FROM due
WHERE e.id = due.id
RETURNING e.id, e.tenant_id, e.line_id, e.number, e.fence, e.call_id, now() - e.last_used_at AS age,
    coalesce((SELECT c.ended_at IS NOT NULL FROM call c WHERE c.tenant_id = e.tenant_id AND c.id = e.call_id), true) AS ended;

-- name: release
-- End a lease, unless it has ended and the extension has been lent again since.
UPDATE extension SET status = 'available', user_id = NULL, call_id = NULL, lease_until = NULL
WHERE tenant_id = $1 AND id = $2 AND fence = $3 AND status = 'in_use'
RETURNING id;

-- name: force_release
-- End the leases of one extension ($2), or of one agent ($3), whatever their calls do; their fences count no more.
UPDATE extension e
SET status = 'available', user_id = NULL, call_id = NULL, lease_until = NULL, fence = e.fence + 1
FROM (
    SELECT id, call_id, user_id FROM extension
    WHERE tenant_id = $1 AND status = 'in_use' AND (id = $2 OR user_id = $3)
    ORDER BY id FOR NO KEY UPDATE
) was
WHERE e.id = was.id
RETURNING e.id, e.number, was.call_id, was.user_id;

-- name: import
-- Put these numbers into a line's pool; those that it has already stay as they are.
INSERT INTO extension (id, tenant_id, line_id, number)
SELECT n.id, $1, $2, n.number FROM unnest($3::text[], $4::text[]) AS n (id, number)
ON CONFLICT (line_id, number) DO NOTHING
RETURNING number;

-- name: count_extensions
-- How many extensions a search finds.
SELECT count(*)
FROM extension e
JOIN call_line l ON l.tenant_id = e.tenant_id AND l.id = e.line_id AND l.deleted_at IS NULL
WHERE e.tenant_id = $1 AND ($2::text IS NULL OR e.id = $2) AND ($3::text IS NULL OR e.line_id = $3)
    AND ($4::text IS NULL OR e.status = $4) AND ($5::text IS NULL OR e.user_id = $5)
    AND ($6::text IS NULL OR starts_with(e.number, $6));

-- name: extensions
-- One page of the extensions that a search finds, by line and number.
SELECT e.id, e.line_id, l.name AS line_name, e.number, e.status, e.user_id, u.name AS user_name, e.call_id, e.lease_until,
    CASE WHEN e.cool_until > now() THEN e.cool_until END AS cool_until, e.last_used_at, e.uses, e.created_at
FROM extension e
JOIN call_line l ON l.tenant_id = e.tenant_id AND l.id = e.line_id AND l.deleted_at IS NULL
LEFT JOIN app_user u ON u.tenant_id = e.tenant_id AND u.id = e.user_id
WHERE e.tenant_id = $1 AND ($2::text IS NULL OR e.id = $2) AND ($3::text IS NULL OR e.line_id = $3)
    AND ($4::text IS NULL OR e.status = $4) AND ($5::text IS NULL OR e.user_id = $5)
    AND ($6::text IS NULL OR starts_with(e.number, $6))
ORDER BY l.name, length(e.number), e.number
LIMIT $7 OFFSET $8;

-- name: statistics
-- How the pool of each line is used now; lines that have none are left out.
SELECT e.line_id, l.name AS line_name, count(*) AS total,
    count(*) FILTER (WHERE e.status = 'available' AND (e.cool_until IS NULL OR e.cool_until <= now())) AS available,
    count(*) FILTER (WHERE e.status = 'in_use') AS in_use,
    count(*) FILTER (WHERE e.status = 'available' AND e.cool_until > now()) AS cooling,
    count(*) FILTER (WHERE e.status = 'offline') AS offline,
    sum(e.uses)::bigint AS uses
FROM extension e
JOIN call_line l ON l.tenant_id = e.tenant_id AND l.id = e.line_id AND l.deleted_at IS NULL
WHERE e.tenant_id = $1 AND ($2::text IS NULL OR e.line_id = $2)
GROUP BY e.line_id, l.name
ORDER BY l.name;

-- name: lock
-- Let nobody else lend, release or delete these extensions before this transaction ends.
SELECT id, line_id, number, status FROM extension WHERE tenant_id = $1 AND id = ANY ($2::text[]) ORDER BY id FOR UPDATE;

-- name: turn
-- Take an extension, which is locked and not lent, out of the pool or back into it.
UPDATE extension SET status = $3, cool_until = NULL WHERE tenant_id = $1 AND id = $2;

-- name: delete
-- Forget extensions, which are locked and not lent.
DELETE FROM extension WHERE tenant_id = $1 AND id = ANY ($2::text[]);
