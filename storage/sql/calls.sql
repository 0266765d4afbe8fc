-- What goes by key is to walk by key, also by a plan that was made when a table was small or unknown, for which any walk
-- looks as cheap (tests/storage/test_plans.py). Hence rows are read, and locked, by subqueries of one key each, which
-- `OFFSET 0` keeps whole: they are run for each key in turn, and in the order of what asks. What is to be updated cannot be
-- read so, and says `= ANY` of the keys beside the join on them.

-- name: contexts
-- What dials for these agents need to know, and whether each was answered before; a row for each of an agent's phones, or
-- one without a phone.
SELECT a.n, u.id AS user_id, u.team_id, u.call_method, u.default_device_id, u.default_line_id, u.disabled_at IS NOT NULL AS disabled, t.region,
    t.recording_enabled, t.recording_notice, clock_timestamp() AS now, t.calls_enabled,
    to_char(t.calling_from, 'HH24:MI') AS calling_from, to_char(t.calling_to, 'HH24:MI') AS calling_to,
    to_char(clock_timestamp() AT TIME ZONE t.timezone, 'HH24:MI') AS local,
    d.id AS device_id, d.hardware_id, d.online_status, d.handset_busy, d.capabilities,
    EXISTS (SELECT FROM call c WHERE c.device_id = d.id AND c.ended_at IS NULL OFFSET 0) AS on_call,
    EXISTS (
        SELECT FROM idempotency_key k
        WHERE k.tenant_id = a.tenant_id AND k.actor_id = a.actor_id AND k.operation = a.operation AND k.key = a.key
        OFFSET 0
    ) AS answered
FROM unnest($1::text[], $2::text[], $3::text[], $4::text[], $5::text[])
    WITH ORDINALITY AS a (tenant_id, user_id, actor_id, operation, key, n)
JOIN LATERAL (SELECT * FROM app_user WHERE id = a.user_id OFFSET 0) u ON u.tenant_id = a.tenant_id
JOIN LATERAL (SELECT * FROM tenant WHERE id = u.tenant_id OFFSET 0) t ON true
LEFT JOIN LATERAL (SELECT * FROM device WHERE user_id = u.id AND unbound_at IS NULL OFFSET 0) d ON d.tenant_id = u.tenant_id
ORDER BY a.n, d.bound_at;

-- name: customer_phone
-- The number of a customer that is known here, by our id or the CRM's.
SELECT phone, name FROM customer WHERE tenant_id = $1 AND (id = $2 OR external_id = $2)
ORDER BY id = $2 DESC
LIMIT 1;

-- name: dial
-- Dials, all or nothing: each with its call, first event, command and kept answer, if its customer may be called, its phone
-- is online and its time is not up, the last two judged when the phone is locked. The share lock makes them wait for a
-- phone that is just moving to another node, and then see where it went; it is taken by ascending id, as claims do. Rows
-- that a twin may have written go in order too: two of these that waited for each other would both come to nothing.
WITH asked AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::text[], $4::text[], $5::text[], $6::text[], $7::text[], $8::text[], $9::text[],
        $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::text[], $16::timestamptz[], $17::float8[],
        $18::text[], $19::float8[], $20::text[], $21::text[], $22::text[], $23::text[], $24::bytea[], $25::bytea[],
        $26::boolean[]
    ) WITH ORDINALITY AS a (
        tenant_id, device_id, user_id, id, team_id, created_by, customer_phone, customer_id, customer_name, order_id,
        external_id, custom_data, source, said, command_id, expires_at, reap_after_expiry, command, resend_after,
        kept_tenant, kept_actor, operation, key, request_sha256, answer, record, n
    )
),
held AS MATERIALIZED (
    SELECT a.*, d.node, d.online_status, d.handset_busy, d.unbound_at, u.disabled_at
    FROM (SELECT * FROM asked ORDER BY device_id OFFSET 0) a
    JOIN LATERAL (SELECT * FROM device WHERE id = a.device_id OFFSET 0 FOR SHARE) d
        ON d.tenant_id = a.tenant_id AND d.user_id = a.user_id
    JOIN LATERAL (SELECT disabled_at FROM app_user WHERE id = a.user_id OFFSET 0) u ON true
),
judged AS MATERIALIZED (
    SELECT *, expires_at <= clock_timestamp() AS late, h.tenant_id = ANY (ARRAY(
        SELECT d.tenant_id FROM do_not_call d
        WHERE d.phone = h.customer_phone AND (d.expires_at IS NULL OR d.expires_at > now())
    )) AS listed
    FROM held h
    WHERE unbound_at IS NULL AND disabled_at IS NULL
),
ready AS (
    SELECT * FROM judged WHERE online_status = 'online' AND NOT (listed OR handset_busy OR late)
),
new_call AS (
    INSERT INTO call (
        id, tenant_id, user_id, team_id, created_by, device_id, call_method, customer_phone,
        customer_id, customer_name, order_id, external_id, custom_data, reap_at, record
    )
    SELECT id, tenant_id, user_id, team_id, created_by, device_id, 'mobile', customer_phone, customer_id, customer_name,
        order_id, external_id, custom_data::json, expires_at + make_interval(secs => reap_after_expiry), record
    FROM ready
    ORDER BY device_id
    RETURNING id, tell_hooks('call.created', call)
),
new_event AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
    SELECT id, tenant_id, source, 'DIAL', 'created', said::json FROM ready
),
new_command AS (
    INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)
    SELECT command_id, tenant_id, id, device_id, 'DIAL_COMMAND', command::json, expires_at,
        now() + make_interval(secs => resend_after)
    FROM ready
),
kept AS (
    INSERT INTO idempotency_key (tenant_id, actor_id, operation, key, request_sha256, answer)
    SELECT kept_tenant, kept_actor, operation, key, request_sha256, answer FROM ready WHERE key IS NOT NULL
    ORDER BY kept_tenant, kept_actor, operation, key
)
SELECT n, node, listed, online_status, handset_busy, late FROM judged;

-- name: read
-- Calls as reports see them, whether their recordings were stored, and whether these reports were seen before.
SELECT r.n, c.id, c.tenant_id, c.user_id, c.device_id, c.version, c.customer_phone, c.customer_id, c.customer_name,
    c.order_id, c.external_id, c.custom_data, c.created_at, c.status, c.dialing_at, c.ringing_at, c.connected_at,
    c.connected_evidence, c.ended_at, c.outcome, c.closed_by, c.evidence, c.hangup_cause, c.raw_cause, c.duration,
    c.has_recording, c.recording_size, c.reap_at,
    coalesce(c.recording_status IN ('ready', 'expired', 'deleted'), false) AS recording_stored,
    d.node, d.capabilities, clock_timestamp() AS now,
    EXISTS (SELECT FROM call_event e WHERE e.call_id = c.id AND e.message_id = r.message_id OFFSET 0) AS seen,
    NOT EXISTS (
        SELECT FROM command o WHERE o.call_id = c.id AND o.type = 'DIAL_COMMAND' AND o.acked_at IS NOT NULL OFFSET 0
    ) AND NOT EXISTS (
        SELECT FROM attempt a WHERE a.call_id = c.id AND a.state NOT IN ('committed', 'over') OFFSET 0
    ) AS never_given,
    (SELECT max(a.n) FROM attempt a WHERE a.call_id = c.id) AS attempt
FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS r (tenant_id, call_id, message_id, n)
JOIN LATERAL (SELECT * FROM call WHERE id = r.call_id OFFSET 0) c ON c.tenant_id = r.tenant_id
LEFT JOIN LATERAL (SELECT node, capabilities FROM device WHERE id = c.device_id OFFSET 0) d ON true;

-- name: change
-- Move calls, each by compare-and-set on its version, note why, stop what is overtaken, and tell their agents, in this
-- order of locks: calls, commands, extensions, agents, each ascending, whatever the plan. A call without a row was moved
-- by somebody else first. An extension is free with the end that its provider tells, or where no order was ever taken;
-- who ends a call for want of knowledge does not free it.
WITH asked AS (
    SELECT * FROM unnest(
        $1::text[], $2::text[], $3::integer[], $4::text[], $5::timestamptz[], $6::timestamptz[], $7::timestamptz[],
        $8::text[], $9::timestamptz[], $10::text[], $11::text[], $12::text[], $13::text[], $14::text[], $15::integer[],
        $16::boolean[], $17::bigint[], $18::timestamptz[], $19::text[], $20::text[], $21::text[], $22::text[],
        $23::text[], $24::text[], $25::text[]
    ) WITH ORDINALITY AS a (
        tenant_id, id, version, status, dialing_at, ringing_at, connected_at, connected_evidence, ended_at, outcome,
        closed_by, evidence, hangup_cause, raw_cause, duration, has_recording, recording_size, reap_at, source, kind,
        effect, message_id, why, type, told, n
    )
),
held AS MATERIALIZED (
    SELECT a.*
    FROM (SELECT * FROM asked ORDER BY id, n OFFSET 0) a
    JOIN LATERAL (SELECT tenant_id, version FROM call WHERE id = a.id OFFSET 0 FOR NO KEY UPDATE) c
        ON c.tenant_id = a.tenant_id AND c.version = a.version
),
moved AS (
    UPDATE call
    SET version = call.version + 1, status = a.status, dialing_at = a.dialing_at, ringing_at = a.ringing_at,
        connected_at = a.connected_at, connected_evidence = a.connected_evidence, ended_at = a.ended_at,
        outcome = a.outcome, closed_by = a.closed_by, evidence = a.evidence, hangup_cause = a.hangup_cause,
        raw_cause = a.raw_cause, duration = a.duration, has_recording = a.has_recording,
        recording_size = a.recording_size, reap_at = a.reap_at, updated_at = now()
    FROM held a
    WHERE call.tenant_id = a.tenant_id AND call.id = a.id AND call.id = ANY ($2) AND call.version = a.version
    RETURNING a.*, call.user_id, tell_hooks(
        CASE
            WHEN a.effect = 'enriched' THEN 'call.corrected'
            WHEN a.status IN ('connected', 'ended') THEN 'call.' || a.status
        END,
        call
    )
),
noted AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, message_id, data)
    SELECT id, tenant_id, source, kind, effect, message_id, why::json FROM moved
),
waiting AS MATERIALIZED (
    SELECT c.id, m.source
    FROM moved m
    JOIN LATERAL (SELECT id, type, next_send_at FROM command WHERE call_id = m.id OFFSET 0) c
        ON c.next_send_at IS NOT NULL AND (c.type = 'DIAL_COMMAND' OR m.status = 'ended')
),
due AS MATERIALIZED (
    SELECT w.id, w.source
    FROM (SELECT * FROM waiting ORDER BY id OFFSET 0) w
    JOIN LATERAL (SELECT next_send_at FROM command WHERE id = w.id OFFSET 0 FOR NO KEY UPDATE) c ON c.next_send_at IS NOT NULL
),
overtaken AS (
    UPDATE command c
    SET next_send_at = NULL, acked_at = CASE WHEN d.source = 'phone' THEN coalesce(c.acked_at, now()) ELSE c.acked_at END
    FROM due d WHERE c.id = d.id AND c.id = ANY (ARRAY(SELECT id FROM due))
    RETURNING c.id
),
taken AS MATERIALIZED (
    SELECT e.id, m.id AS call_id
    FROM moved m JOIN LATERAL (SELECT id FROM extension WHERE call_id = m.id OFFSET 0) e ON true
    WHERE (SELECT count(*) FROM overtaken) >= 0 AND m.status = 'ended' AND (m.closed_by = 'provider' OR NOT EXISTS (
        SELECT FROM attempt a WHERE a.call_id = m.id AND a.state NOT IN ('refused', 'over') OFFSET 0))
),
lent AS MATERIALIZED (
    SELECT t.id
    FROM (SELECT * FROM taken ORDER BY id OFFSET 0) t
    JOIN LATERAL (SELECT call_id FROM extension WHERE id = t.id OFFSET 0 FOR NO KEY UPDATE) e ON e.call_id = t.call_id
),
freed AS (
    UPDATE extension e SET status = 'available', user_id = NULL, call_id = NULL, lease_until = NULL
    FROM lent l WHERE e.id = l.id AND e.id = ANY (ARRAY(SELECT id FROM lent))
    RETURNING e.id
)
SELECT t.n, t.user_id, emit(t.user_id, t.type, t.told::json) AS seq,
    ARRAY(SELECT w.node FROM agent_node w WHERE w.user_id = t.user_id) AS nodes
FROM (
    SELECT m.n, m.user_id, m.type, m.told
    FROM moved m CROSS JOIN (SELECT count(*) AS freed FROM freed) f
    WHERE f.freed >= 0
    ORDER BY m.user_id, m.n
) t;

-- name: note
-- Record a report that changed nothing; a repeat of it is nothing at all.
INSERT INTO call_event (call_id, tenant_id, source, kind, effect, message_id, data)
VALUES ($2, $1, $3, $4, $5, $6, $7::text::json)
ON CONFLICT (call_id, message_id) WHERE message_id IS NOT NULL DO NOTHING;

-- name: visible
-- A call if the asker reaches it, with where its phone is.
SELECT c.id, c.status, c.device_id, c.user_id, d.node, d.capabilities,
    EXISTS (SELECT FROM command o WHERE o.call_id = c.id AND o.type = 'CANCEL_DIAL') AS cancelled
FROM call c LEFT JOIN device d ON d.id = c.device_id
WHERE c.tenant_id = $1 AND c.id = $2
    AND ($3::text IS NULL OR c.user_id = $3) AND ($4::text[] IS NULL OR c.team_id = ANY ($4) OR c.user_id = $5);

-- name: cancel
-- Commit a CANCEL_DIAL for a living call, once however many ask at a time, and stop sending its dial.
WITH living AS (
    SELECT id, device_id FROM call WHERE tenant_id = $1 AND id = $2 AND ended_at IS NULL FOR NO KEY UPDATE
),
stopped AS (
    UPDATE command c SET next_send_at = NULL
    FROM living WHERE c.call_id = living.id AND c.type = 'DIAL_COMMAND'
),
asked AS (
    INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)
    SELECT $3, $1, l.id, l.device_id, 'CANCEL_DIAL', $4::text::json, now() + interval '1 day',
        now() + make_interval(secs => $7::float8)
    FROM living l
    ON CONFLICT (call_id) WHERE type = 'CANCEL_DIAL' DO NOTHING
    RETURNING id, call_id
)
INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
SELECT call_id, $1, $5, 'HANGUP', 'none', $6::text::json FROM asked
RETURNING call_id;

-- name: doubt
-- Let the reaper look soon at a living call that its phone, back after long, does not know of.
UPDATE call SET reap_at = least(reap_at, now() + make_interval(secs => $3::float8))
WHERE tenant_id = $1 AND id = $2 AND ended_at IS NULL AND status <> 'pending';

-- name: ack
-- Phones have these commands on their disks; they are locked by ascending id, as others do.
WITH held AS MATERIALIZED (
    SELECT a.id
    FROM (SELECT * FROM unnest($1::text[], $2::text[]) AS a (id, device_id) ORDER BY id OFFSET 0) a
    JOIN LATERAL (SELECT device_id FROM command WHERE id = a.id OFFSET 0 FOR NO KEY UPDATE) c ON c.device_id = a.device_id
)
UPDATE command c SET acked_at = coalesce(c.acked_at, now()), next_send_at = NULL
WHERE c.id = ANY (ARRAY(SELECT id FROM held));

-- name: due
-- Claim the commands that phones of this node did not ack in time, and move them on.
UPDATE command c
SET next_send_at = now() + make_interval(secs => $2::float8), sends = sends + 1
FROM (
    SELECT o.id, d.conn_epoch FROM command o JOIN device d ON d.id = o.device_id
    WHERE o.next_send_at <= now() AND o.expires_at > now() AND d.node = $1
    ORDER BY o.next_send_at LIMIT 500
    FOR UPDATE OF o SKIP LOCKED
) t
WHERE c.id = t.id
RETURNING c.id, c.device_id, c.type, c.data, c.sends, t.conn_epoch;

-- name: silence
-- Commands that have expired are sent no more.
UPDATE command SET next_send_at = NULL
WHERE id IN (
    SELECT id FROM command WHERE next_send_at <= now() AND expires_at <= now() LIMIT 1000 FOR UPDATE SKIP LOCKED
);

-- name: overdue
-- Calls that have stood still for longer than their state may.
SELECT tenant_id, id FROM call WHERE ended_at IS NULL AND reap_at <= now() ORDER BY reap_at LIMIT 200;

-- name: living_of
-- The living calls of these phones of one tenant.
SELECT id FROM call WHERE tenant_id = $1 AND device_id = ANY ($2::text[]) AND ended_at IS NULL ORDER BY id FOR NO KEY UPDATE;

-- name: living_of_agent
-- The living calls of an agent, for the page that draws them.
SELECT id, status, call_method, customer_phone, created_at, device_id, customer_name, customer_id, order_id, external_id,
    custom_data, connected_at
FROM call
WHERE user_id = $1 AND ended_at IS NULL
ORDER BY created_at DESC
LIMIT 8;
