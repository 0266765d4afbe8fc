-- name: hold
-- Let nobody else add a hook to this tenant until commit, so that they can be counted.
SELECT pg_advisory_xact_lock(hashtextextended('hooks of ' || $1::text, 0));

-- name: add
-- A new hook; no row means that the tenant has as many as it may have.
INSERT INTO hook (tenant_id, id, url, events, description, enabled, reveal, created_by)
SELECT $1, $2, $3, $4::text[], $5, $6, $7, $8
WHERE (SELECT count(*) FROM hook WHERE tenant_id = $1) < $9::integer
RETURNING id;

-- name: list
-- The hooks of a tenant, oldest first.
SELECT h.*, (SELECT max(s.expires_at) FROM hook_secret s WHERE s.hook_id = h.id AND s.expires_at > now()) AS old_secret_until
FROM hook h
WHERE h.tenant_id = $1 AND ($2::text IS NULL OR h.id = $2)
ORDER BY h.created_at, h.id;

-- name: lock
-- Hold a hook until commit.
SELECT id FROM hook WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE;

-- name: change
-- Set what people set; one that is enabled anew is as good as new.
UPDATE hook
SET url = $3, events = $4, description = $5, reveal = $6, enabled = $7, updated_at = now(),
    disabled_reason = CASE WHEN $7 THEN NULL ELSE disabled_reason END,
    disabled_at = CASE WHEN $7 THEN NULL ELSE coalesce(disabled_at, now()) END,
    failing_since = CASE WHEN enabled = $7 AND url = $3 THEN failing_since END,
    not_before = CASE WHEN enabled = $7 AND url = $3 THEN not_before END
WHERE tenant_id = $1 AND id = $2;

-- name: remove
-- Drop a hook with its secrets. Its deliveries are sent no more, and expire.
DELETE FROM hook WHERE tenant_id = $1 AND id = $2 RETURNING id;

-- name: add_secret
-- Sign with this from now on, and for a while with those it takes the place of, the newest of them.
WITH replaced AS (
    UPDATE hook_secret SET expires_at = now() + make_interval(secs => $4::float8)
    WHERE tenant_id = $1 AND hook_id = $2 AND expires_at IS NULL
),
superfluous AS (
    DELETE FROM hook_secret
    WHERE id IN (SELECT id FROM hook_secret WHERE tenant_id = $1 AND hook_id = $2 ORDER BY id DESC OFFSET $5)
)
INSERT INTO hook_secret (tenant_id, hook_id, sealed) VALUES ($1, $2, $3);

-- name: ping
-- Leave word for one hook that it is being tested.
INSERT INTO hook_delivery (id, tenant_id, hook_id, event, subject_id, at, content, next_at, give_up_at)
SELECT $3, h.tenant_id, h.id, 'hook.ping', h.id, now(), json_build_object('id', h.id), now(), now() + interval '1 hour'
FROM hook h
WHERE h.tenant_id = $1 AND h.id = $2 AND h.enabled
RETURNING id;

-- name: claim
-- Claim, in the whole installation, what is to be sent now: at most $2, and of each hook as many as there is room for beside
-- those that the worker is sending already ($4, $5); a hook that fails is tried by one at a time. Hooks come in no order,
-- so that none waits for another's backlog.
WITH due AS MATERIALIZED (
    SELECT x.id, h.url, h.reveal, h.sealed
    FROM (
        SELECT w.id, w.url, w.reveal, CASE WHEN w.failing_since IS NULL THEN $3 ELSE 1 END - coalesce(b.how_many, 0) AS room,
            ARRAY(
                SELECT s.sealed FROM hook_secret s
                WHERE s.hook_id = w.id AND (s.expires_at IS NULL OR s.expires_at > now())
                ORDER BY s.id DESC
            ) AS sealed
        FROM hook w
        JOIN tenant t ON t.id = w.tenant_id AND t.status = 'active'
        LEFT JOIN unnest($4::text[], $5::integer[]) AS b (hook_id, how_many) ON b.hook_id = w.id
        WHERE w.enabled AND (w.not_before IS NULL OR w.not_before <= now())
            AND EXISTS (SELECT FROM hook_delivery y WHERE y.hook_id = w.id AND y.next_at <= now())
        ORDER BY random()
    ) h
    CROSS JOIN LATERAL (
        SELECT y.id FROM hook_delivery y
        WHERE y.hook_id = h.id AND y.next_at <= now()
        ORDER BY y.next_at
        LIMIT greatest(h.room, 0)
        FOR UPDATE SKIP LOCKED
    ) x
    LIMIT $2
)
UPDATE hook_delivery d
SET next_at = now() + make_interval(secs => $1::float8), tries = d.tries + 1, attempts = d.attempts + 1, attempted_at = now()
FROM due
WHERE d.id = due.id
RETURNING d.id, d.tenant_id, d.hook_id, d.event, d.at, d.content, d.tries, d.attempts, d.give_up_at <= now() AS last_try,
    due.url, due.reveal, due.sealed;

-- name: delivered
-- It was taken, and the hook works. Who was slow to say so may say so still.
WITH taken AS (
    UPDATE hook_delivery
    SET state = 'delivered', next_at = NULL, status = $3, answer = $4, failure = NULL, took_ms = $5
    WHERE tenant_id = $1 AND id = $2
    RETURNING hook_id
)
UPDATE hook h
SET delivered_at = now(), failing_since = NULL, not_before = NULL
FROM taken
WHERE h.tenant_id = $1 AND h.id = taken.hook_id
    AND (h.failing_since IS NOT NULL OR h.not_before IS NOT NULL OR h.delivered_at IS NULL
        OR h.delivered_at < now() - interval '1 minute');

-- name: failed
-- It was not taken: try again in $8 seconds, or never where that is NULL, and nothing else of the hook for $9 seconds.
-- Tells whether the hook has done nothing but fail for longer than $10 seconds. Another attempt, begun since, is not
-- overruled.
WITH missed AS (
    UPDATE hook_delivery
    SET state = CASE WHEN $8::float8 IS NULL THEN 'failed' ELSE 'waiting' END,
        next_at = now() + make_interval(secs => $8::float8),
        status = $4, answer = $5, failure = $6, took_ms = $7
    WHERE tenant_id = $1 AND id = $2 AND attempts = $3 AND state = 'waiting'
    RETURNING hook_id
)
UPDATE hook h
SET failing_since = coalesce(h.failing_since, now()),
    not_before = coalesce(now() + make_interval(secs => $9::float8), h.not_before)
FROM missed
WHERE h.tenant_id = $1 AND h.id = missed.hook_id
RETURNING h.failing_since < now() - make_interval(secs => $10::float8) AS hopeless;

-- name: disable
-- The machine disables a hook; no row means that it is disabled already.
UPDATE hook SET enabled = false, disabled_reason = $3, disabled_at = now(), updated_at = now()
WHERE tenant_id = $1 AND id = $2 AND enabled
RETURNING id;

-- name: deliveries
-- The log of a hook, newest first, after one of its lines.
SELECT id, event, subject_id, at, state, next_at, attempts, attempted_at, status, answer, failure, took_ms
FROM hook_delivery d
WHERE d.tenant_id = $1 AND d.hook_id = $2
    AND ($3::text IS NULL OR d.state = $3) AND ($4::text IS NULL OR d.event = $4) AND ($5::timestamptz IS NULL OR d.at >= $5)
    AND (
        $6::text IS NULL
        OR (d.at, d.id) < (SELECT c.at, c.id FROM hook_delivery c WHERE c.tenant_id = $1 AND c.hook_id = $2 AND c.id = $6)
    )
ORDER BY d.at DESC, d.id DESC
LIMIT $7;

-- name: resend
-- Send one again now, whatever became of it, with all the time and tries of a new one.
UPDATE hook_delivery SET state = 'waiting', next_at = now(), give_up_at = now() + interval '3 days', tries = 0
WHERE tenant_id = $1 AND hook_id = $2 AND id = $3
RETURNING id;

-- name: resend_failed
-- Send again what was given up of the events since then, the oldest of them first.
WITH given_up AS (
    SELECT id FROM hook_delivery
    WHERE tenant_id = $1 AND hook_id = $2 AND state = 'failed' AND at >= $3
    ORDER BY at, id LIMIT $4
    FOR UPDATE
)
UPDATE hook_delivery d SET state = 'waiting', next_at = now(), give_up_at = now() + interval '3 days', tries = 0
FROM given_up
WHERE d.id = given_up.id
RETURNING d.id;

-- name: give_up
-- What waits for hooks that are disabled waits no longer than anything else.
UPDATE hook_delivery SET state = 'failed', next_at = NULL, failure = coalesce(failure, 'the hook was disabled')
WHERE id IN (
    SELECT d.id FROM hook h JOIN hook_delivery d ON d.hook_id = h.id AND d.next_at IS NOT NULL
    WHERE NOT h.enabled AND d.give_up_at < now()
    LIMIT 5000 FOR UPDATE OF d SKIP LOCKED
);

-- name: expire
-- Drop a batch of deliveries that have had their time.
DELETE FROM hook_delivery
WHERE id = ANY (
    ARRAY(SELECT id FROM hook_delivery WHERE at < now() - make_interval(secs => $1::float8) ORDER BY at LIMIT 5000)
);

-- name: expire_secrets
-- Drop secrets that nothing is signed with any more.
DELETE FROM hook_secret WHERE expires_at < now();
