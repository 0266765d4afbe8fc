-- name: context
-- What a dial for this agent needs to know; a row for each of the agent's phones, or one without a phone.
SELECT u.team_id, u.call_method, u.default_device_id, u.default_line_id, u.disabled_at IS NOT NULL AS disabled, t.region,
    t.recording_enabled, t.recording_notice, clock_timestamp() AS now, t.calls_enabled,
    to_char(t.calling_from, 'HH24:MI') AS calling_from, to_char(t.calling_to, 'HH24:MI') AS calling_to,
    to_char(clock_timestamp() AT TIME ZONE t.timezone, 'HH24:MI') AS local,
    d.id AS device_id, d.hardware_id, d.online_status, d.handset_busy, d.capabilities,
    EXISTS (SELECT FROM call c WHERE c.device_id = d.id AND c.ended_at IS NULL) AS on_call
FROM app_user u
JOIN tenant t ON t.id = u.tenant_id
LEFT JOIN device d ON d.tenant_id = u.tenant_id AND d.user_id = u.id AND d.unbound_at IS NULL
WHERE u.tenant_id = $1 AND u.id = $2
    AND ($3::text IS NULL OR u.id = $3) AND ($4::text[] IS NULL OR u.team_id = ANY ($4) OR u.id = $5)
ORDER BY d.bound_at;

-- name: customer_phone
-- The number of a customer that is known here, by our id or the CRM's.
SELECT phone, name FROM customer WHERE tenant_id = $1 AND (id = $2 OR external_id = $2)
ORDER BY id = $2 DESC
LIMIT 1;

-- name: dial
-- One dial, all or nothing: the call, its first event, the command and the kept answer, if the phone is online. The
-- share lock makes it wait for a phone that is just moving to another node, and then see where it went.
WITH phone AS (
    SELECT id, node, online_status, handset_busy FROM device
    WHERE tenant_id = $1 AND id = $2 AND user_id = $3 AND unbound_at IS NULL
    FOR SHARE
),
new_call AS (
    INSERT INTO call (
        id, tenant_id, user_id, team_id, created_by, device_id, call_method, customer_phone,
        customer_id, customer_name, order_id, external_id, custom_data, reap_at, record
    )
    SELECT $4, $1, $3, $5, $6, p.id, 'mobile', $7, $8, $9, $10, $11, $12::text::json,
        $16::timestamptz + make_interval(secs => $17::float8), $26
    FROM phone p WHERE p.online_status = 'online' AND NOT p.handset_busy
    RETURNING id, tell_hooks('call.created', call)
),
new_event AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
    SELECT id, $1, $13, 'DIAL', 'created', $14::text::json FROM new_call
),
new_command AS (
    INSERT INTO command (id, tenant_id, call_id, device_id, type, data, expires_at, next_send_at)
    SELECT $15, $1, c.id, $2, 'DIAL_COMMAND', $18::text::json, $16::timestamptz, now() + make_interval(secs => $19::float8) FROM new_call c
),
kept AS (
    INSERT INTO idempotency_key (tenant_id, actor_id, operation, key, request_sha256, answer)
    SELECT $20, $21, $22, $23, $24, $25 FROM new_call WHERE $23::text IS NOT NULL
)
SELECT p.node, p.online_status, p.handset_busy, c.id AS call_id
FROM phone p LEFT JOIN new_call c ON true;

-- name: read
-- A call as reports see it, whether its recording was stored, and whether this report was seen before.
SELECT c.id, c.tenant_id, c.user_id, c.device_id, c.version, c.customer_phone, c.customer_id, c.customer_name, c.order_id,
    c.external_id, c.custom_data, c.created_at, c.status, c.dialing_at, c.ringing_at, c.connected_at, c.connected_evidence,
    c.ended_at, c.outcome, c.closed_by, c.evidence, c.hangup_cause, c.raw_cause, c.duration, c.has_recording,
    c.recording_size, c.reap_at, coalesce(c.recording_status IN ('ready', 'expired', 'deleted'), false) AS recording_stored,
    d.node, d.capabilities, clock_timestamp() AS now,
    EXISTS (SELECT FROM call_event e WHERE e.call_id = c.id AND e.message_id = $3) AS seen,
    NOT EXISTS (
        SELECT FROM command o WHERE o.call_id = c.id AND o.type = 'DIAL_COMMAND' AND o.acked_at IS NOT NULL
    ) AND NOT EXISTS (
        SELECT FROM attempt a WHERE a.call_id = c.id AND a.state NOT IN ('committed', 'over')
    ) AS never_given,
    (SELECT max(a.n) FROM attempt a WHERE a.call_id = c.id) AS attempt
FROM call c LEFT JOIN device d ON d.id = c.device_id
WHERE c.tenant_id = $1 AND c.id = $2;

-- name: change
-- Move a call by compare-and-set on its version, note why, stop what is overtaken, and tell its agent, in this order of
-- locks: call, command, extension, agent. No row means that somebody else moved the call first. An extension is free with the end
-- that its provider tells, or where no order was ever taken; who ends a call for want of knowledge does not free it.
WITH moved AS (
    UPDATE call
    SET version = version + 1, status = $4, dialing_at = $5, ringing_at = $6, connected_at = $7, connected_evidence = $8,
        ended_at = $9, outcome = $10, closed_by = $11, evidence = $12, hangup_cause = $13, raw_cause = $14,
        duration = $15, has_recording = $16, recording_size = $17, reap_at = $18, updated_at = now()
    WHERE tenant_id = $1 AND id = $2 AND version = $3
    RETURNING id, user_id, tell_hooks(
        CASE WHEN $21 = 'enriched' THEN 'call.corrected' WHEN $4 IN ('connected', 'ended') THEN 'call.' || $4 END, call
    )
),
noted AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, message_id, data)
    SELECT id, $1, $19, $20, $21, $22, $23::text::json FROM moved
),
overtaken AS (
    UPDATE command c
    SET next_send_at = NULL, acked_at = CASE WHEN $19 = 'phone' THEN coalesce(c.acked_at, now()) ELSE c.acked_at END
    FROM moved
    WHERE c.call_id = moved.id AND c.next_send_at IS NOT NULL AND (c.type = 'DIAL_COMMAND' OR $4 = 'ended')
    RETURNING c.id
),
freed AS (
    UPDATE extension e SET status = 'available', user_id = NULL, call_id = NULL, lease_until = NULL
    FROM moved
    WHERE $4 = 'ended' AND e.call_id = moved.id AND ($11 = 'provider' OR NOT EXISTS (
        SELECT FROM attempt a WHERE a.call_id = moved.id AND a.state NOT IN ('refused', 'over')))
    RETURNING e.id
)
SELECT m.user_id, o.overtaken, emit(m.user_id, $24, $25::text::json) AS seq,
    ARRAY(SELECT n.node FROM agent_node n WHERE n.user_id = m.user_id) AS nodes
FROM moved m CROSS JOIN (SELECT count(*) AS overtaken FROM overtaken) o CROSS JOIN (SELECT count(*) FROM freed) f;

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
-- A phone has these commands on its disk.
UPDATE command SET acked_at = coalesce(acked_at, now()), next_send_at = NULL
WHERE id = $1 AND device_id = $2;

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
