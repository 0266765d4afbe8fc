-- name: dial
-- One cloud dial: the call, its first event, the attempt and the kept answer, in the transaction that locked the line.
WITH new_call AS (
    INSERT INTO call (
        id, tenant_id, user_id, team_id, created_by, call_method, line_id, caller_number, customer_phone,
        customer_id, customer_name, order_id, external_id, custom_data, reap_at, record
    )
    VALUES ($3, $1, $4, $5, $6, 'cloud', $2, $7, $8, $9, $10, $11, $12, $13::text::json,
        $14::timestamptz + make_interval(secs => $15::float8), $16)
    RETURNING id, tell_hooks('call.created', call)
),
new_event AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
    SELECT id, $1, $17, 'DIAL', 'created', $18::text::json FROM new_call
),
kept AS (
    INSERT INTO idempotency_key (tenant_id, actor_id, operation, key, request_sha256, answer)
    SELECT $24, $25, $26, $27, $28, $29 FROM new_call WHERE $27::text IS NOT NULL
)
INSERT INTO attempt (call_id, tenant_id, line_id, provider, seat_id, seat_number, extension, extension_fence, expires_at)
SELECT id, $1, $2, $19, $20, $21, $22, $23, $14 FROM new_call;

-- name: send
-- Right before the request is written: only who gets the row may write it, and nobody after it expired, or after the
-- call ended. The share lock makes it wait for whoever is just ending the call.
WITH living AS (
    SELECT id, customer_phone FROM call WHERE tenant_id = $1 AND id = $2 AND ended_at IS NULL FOR SHARE
)
UPDATE attempt a
SET state = 'sent', sent_at = now(), next_look_at = now() + make_interval(secs => $3::float8), controls = $4
FROM living
WHERE a.tenant_id = $1 AND a.call_id = living.id AND a.state = 'committed' AND a.expires_at > now()
RETURNING a.call_id, a.n, a.tenant_id, a.line_id, a.provider, a.seat_id, a.seat_number, a.extension, a.state,
    a.provider_call_id, a.ordered_at, living.customer_phone AS callee;

-- name: fail_over
-- The provider refused, definitely and before anything rang: another line carries the call, in the transaction that
-- locked that line. No row where the call may not go on: it has expired, was called off, is over, or did ring after all.
-- The call's version moves too, so that a word of the refusing line that was weighed before is weighed again.
WITH refused AS (
    UPDATE attempt SET state = 'refused', refusal = $4, next_look_at = NULL
    WHERE tenant_id = $1 AND call_id = $2 AND n = $3 AND state = 'sent' AND called_off_at IS NULL AND expires_at > now()
    RETURNING expires_at
),
moved AS (
    UPDATE call SET version = version + 1, line_id = $5, caller_number = $7, updated_at = now()
    FROM refused
    WHERE tenant_id = $1 AND id = $2 AND status = 'pending'
    RETURNING id
),
explained AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, message_id, data)
    SELECT id, $1, 'provider', 'ORDER_REFUSED', 'none', 'refused_' || $3::integer, $12::text::json FROM moved
)
INSERT INTO attempt (call_id, n, tenant_id, line_id, provider, seat_id, seat_number, extension, extension_fence, expires_at)
SELECT id, $3::integer + 1, $1, $5, $6, $8, $9, $10, $11, expires_at FROM moved CROSS JOIN refused
RETURNING n;

-- name: call_off
-- Somebody hung up. What was not written never will be; what was may still be refused, and goes to no other line then.
UPDATE attempt SET called_off_at = now(), state = CASE state WHEN 'committed' THEN 'over' ELSE state END
WHERE tenant_id = $1 AND call_id = $2 AND n = (SELECT max(n) FROM attempt WHERE tenant_id = $1 AND call_id = $2)
RETURNING call_id, n, tenant_id, line_id, provider, seat_id, seat_number, extension, state, provider_call_id, ordered_at,
    (SELECT c.customer_phone FROM call c WHERE c.tenant_id = $1 AND c.id = $2) AS callee;

-- name: answered
-- What the provider said to an order. An id that it gave to another call of the line before names none.
UPDATE attempt a
SET state = $4,
    provider_call_id = CASE
        WHEN EXISTS (SELECT FROM attempt o WHERE o.line_id = a.line_id AND o.provider_call_id = $5) THEN provider_call_id
        ELSE coalesce($5, provider_call_id)
    END,
    next_look_at = now() + make_interval(secs => $6::float8)
WHERE tenant_id = $1 AND call_id = $2 AND n = $3 AND state IN ('sent', 'uncertain');

-- name: refuse
-- The provider refused, and no other line carries the call. One that rang, or is over, all the same is to be looked up:
-- nobody knows what the refusal was of.
WITH held AS (SELECT status = 'pending' AS pending FROM call WHERE tenant_id = $1 AND id = $2 FOR NO KEY UPDATE)
UPDATE attempt a
SET state = CASE WHEN held.pending THEN 'refused' ELSE 'uncertain' END,
    refusal = CASE WHEN held.pending THEN $4 END,
    next_look_at = CASE WHEN NOT held.pending THEN now() + make_interval(secs => $5::float8) END
FROM held
WHERE a.tenant_id = $1 AND a.call_id = $2 AND a.n = $3 AND a.state = 'sent'
RETURNING held.pending;

-- name: unsent
-- Claim, in the whole installation, orders that nobody wrote in time: their node died, or was slow. They never will be.
UPDATE attempt a SET state = 'over', next_look_at = NULL
FROM (SELECT call_id, n FROM attempt WHERE state = 'committed' AND expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) due
WHERE a.call_id = due.call_id AND a.n = due.n
RETURNING a.tenant_id, a.call_id;

-- name: to_look_up
-- Claim, in the whole installation, calls of which the provider is to be asked: at most $2, and of each line as many as
-- there is room for beside those that the worker asks of already ($4, $5). Lines come in no order, as in `inbox`.
WITH due AS MATERIALIZED (
    SELECT x.call_id, x.n
    FROM (
        SELECT w.id, $3::integer - coalesce(b.how_many, 0) AS room
        FROM call_line w
        LEFT JOIN unnest($4::text[], $5::integer[]) AS b (line_id, how_many) ON b.line_id = w.id
        WHERE EXISTS (SELECT FROM attempt y WHERE y.line_id = w.id AND y.next_look_at <= now())
        ORDER BY random()
    ) l
    CROSS JOIN LATERAL (
        SELECT y.call_id, y.n FROM attempt y
        WHERE y.line_id = l.id AND y.next_look_at <= now()
        ORDER BY y.next_look_at
        LIMIT greatest(l.room, 0)
        FOR UPDATE SKIP LOCKED
    ) x
    LIMIT $2
)
UPDATE attempt a SET next_look_at = now() + make_interval(secs => $1::float8), looks = looks + 1
FROM due
WHERE a.call_id = due.call_id AND a.n = due.n
RETURNING a.call_id, a.n, a.tenant_id, a.line_id, a.provider, a.seat_id, a.seat_number, a.extension, a.state,
    a.provider_call_id, a.ordered_at,
    (SELECT c.customer_phone FROM call c WHERE c.id = a.call_id) AS callee;

-- name: look_again
-- When to ask next; NULL: never, as of what was refused meanwhile. What was hinted at, and is still to come, stays.
UPDATE attempt
SET next_look_at = CASE WHEN state NOT IN ('refused', 'over') THEN
    least(now() + make_interval(secs => $4::float8), CASE WHEN hinted_at > now() THEN hinted_at END) END
WHERE tenant_id = $1 AND call_id = $2 AND n = $3;

-- name: look_soon
-- The provider spoke of a call: ask what it knows in a second, but for such words no more often than every $4 seconds.
UPDATE attempt
SET hinted_at = greatest(now() + interval '1 s', hinted_at + make_interval(secs => $4::float8)),
    next_look_at = least(next_look_at, greatest(now() + interval '1 s', hinted_at + make_interval(secs => $4::float8)))
WHERE tenant_id = $1 AND call_id = $2 AND n = $3 AND state IN ('sent', 'placed', 'uncertain')
    AND (hinted_at IS NULL OR hinted_at <= now());

-- name: hinted
-- Somebody, who may be anybody, named young calls of this provider, in the whole installation: as look_soon.
UPDATE attempt a
SET hinted_at = greatest(now() + interval '1 s', hinted_at + make_interval(secs => $3::float8)),
    next_look_at = least(next_look_at, greatest(now() + interval '1 s', hinted_at + make_interval(secs => $3::float8)))
FROM (
    SELECT call_id, n FROM attempt
    WHERE provider = $1 AND (call_id = ANY($2::text[]) OR provider_call_id = ANY($2::text[]))
        AND state IN ('sent', 'placed', 'uncertain') AND ordered_at > now() - interval '2 days'
        AND (hinted_at IS NULL OR hinted_at <= now())
    ORDER BY call_id, n FOR NO KEY UPDATE
) named
WHERE a.call_id = named.call_id AND a.n = named.n;

-- name: named
-- The provider told its own id of a call; one that it told of another call names none.
UPDATE attempt a SET provider_call_id = $4
WHERE tenant_id = $1 AND call_id = $2 AND n = $3 AND provider_call_id IS NULL
    AND NOT EXISTS (SELECT FROM attempt o WHERE o.line_id = a.line_id AND o.provider_call_id = $4);

-- name: find
-- Which call a provider speaks of, by our tag or else its own id, on this line; and whether another line has the call by
-- now. Its id is the provider's, which may give one twice; our tag is of one call.
SELECT a.call_id, a.n, a.provider_call_id,
    EXISTS (SELECT FROM attempt later WHERE later.call_id = a.call_id AND later.n > a.n) AS overtaken
FROM attempt a
WHERE a.tenant_id = $1 AND a.line_id = $2 AND (a.provider_call_id = $3 OR a.call_id = $4)
ORDER BY (a.call_id = $4) IS TRUE DESC, a.n DESC LIMIT 1;

-- name: of_call
-- The latest attempt of a call.
SELECT a.call_id, a.n, a.tenant_id, a.line_id, a.provider, a.seat_id, a.seat_number, a.extension, a.state, a.provider_call_id,
    a.ordered_at, c.customer_phone AS callee
FROM attempt a JOIN call c ON c.tenant_id = a.tenant_id AND c.id = a.call_id
WHERE a.tenant_id = $1 AND a.call_id = $2
ORDER BY a.n DESC LIMIT 1;

-- name: standing
-- Where a call stands, for whoever decides when to ask of it again.
SELECT ended_at, evidence, now() AS now FROM call WHERE tenant_id = $1 AND id = $2;
