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
-- Right before the request is written: only who gets the row may write it, and nobody after it expired.
UPDATE attempt SET state = 'sent', sent_at = now(), next_look_at = now() + make_interval(secs => $3::float8)
WHERE tenant_id = $1 AND call_id = $2 AND state = 'committed' AND expires_at > now()
RETURNING call_id, n, tenant_id, line_id, provider, seat_id, seat_number, extension, state, provider_call_id, ordered_at,
    (SELECT c.customer_phone FROM call c WHERE c.tenant_id = $1 AND c.id = $2) AS callee;

-- name: answered
-- What the provider said to an order.
UPDATE attempt
SET state = $4, provider_call_id = coalesce($5, provider_call_id), refusal = $6,
    next_look_at = CASE WHEN $4 = 'refused' THEN NULL ELSE now() + make_interval(secs => $7::float8) END
WHERE tenant_id = $1 AND call_id = $2 AND n = $3 AND state IN ('sent', 'uncertain');

-- name: unsent
-- Claim, in the whole installation, orders that nobody wrote in time: their node died, or was slow. They never will be.
UPDATE attempt a SET state = 'over', next_look_at = NULL
FROM (SELECT call_id, n FROM attempt WHERE state = 'committed' AND expires_at <= now() ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED) due
WHERE a.call_id = due.call_id AND a.n = due.n
RETURNING a.tenant_id, a.call_id;

-- name: to_look_up
-- Claim, in the whole installation, calls of which the provider is to be asked.
UPDATE attempt a SET next_look_at = now() + make_interval(secs => $1::float8), looks = looks + 1
FROM (
    SELECT call_id, n FROM attempt WHERE next_look_at <= now() ORDER BY next_look_at LIMIT $2 FOR UPDATE SKIP LOCKED
) due
WHERE a.call_id = due.call_id AND a.n = due.n
RETURNING a.call_id, a.n, a.tenant_id, a.line_id, a.provider, a.seat_id, a.seat_number, a.extension, a.state,
    a.provider_call_id, a.ordered_at,
    (SELECT c.customer_phone FROM call c WHERE c.id = a.call_id) AS callee;

-- name: look_again
-- When to ask next; NULL: never.
UPDATE attempt SET next_look_at = now() + make_interval(secs => $4::float8)
WHERE tenant_id = $1 AND call_id = $2 AND n = $3;

-- name: named
-- The provider told its own id of a call.
UPDATE attempt SET provider_call_id = $4
WHERE tenant_id = $1 AND call_id = $2 AND n = $3 AND provider_call_id IS NULL;

-- name: find
-- Which call a provider speaks of, by its own id or our tag, on this line.
SELECT call_id, n, provider_call_id FROM attempt
WHERE tenant_id = $1 AND line_id = $2 AND (provider_call_id = $3 OR call_id = $4)
ORDER BY n DESC LIMIT 1;

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
