-- name: people
-- One large tenant with 500 agents in ten teams, and nine small ones with 50 in two; each agent has a phone. The large one
-- has an administrator, and a supervisor of three teams.
WITH company AS (
    INSERT INTO tenant (id, code, name, calling_from, calling_to)
    SELECT 'tenant_' || t, 'grown-' || t, 'Company ' || t, '00:00', '24:00' FROM generate_series(0, 9) t
    RETURNING id
),
size AS (
    SELECT 'tenant_' || t AS tenant_id, t, CASE t WHEN 0 THEN 500 ELSE 50 END AS agents, CASE t WHEN 0 THEN 10 ELSE 2 END AS teams
    FROM generate_series(0, 9) t
),
part AS (
    INSERT INTO team (id, tenant_id, name)
    SELECT format('team_%s_%s', t, n), tenant_id, 'Team ' || n FROM size, generate_series(0, teams - 1) n
    RETURNING id
),
agent AS (
    INSERT INTO app_user (id, tenant_id, team_id, role, username, name, password_hash)
    SELECT format('user_%s_%s', t, n), tenant_id, format('team_%s_%s', t, n % teams), 'agent', format('agent-%s-%s', t, n),
        'Agent ' || n, '-'
    FROM size, generate_series(0, agents - 1) n
    RETURNING id, tenant_id
),
other AS (
    INSERT INTO app_user (id, tenant_id, role, username, name, password_hash)
    VALUES ('admin', 'tenant_0', 'tenant_admin', 'admin', 'Admin', '-'), ('supervisor', 'tenant_0', 'supervisor', 'supervisor', 'Supervisor', '-')
),
supervised AS (
    INSERT INTO team_supervisor (tenant_id, team_id, user_id) SELECT 'tenant_0', 'team_0_' || n, 'supervisor' FROM generate_series(0, 2) n
),
stream AS (
    INSERT INTO agent_stream (user_id, tenant_id) SELECT id, tenant_id FROM agent
)
INSERT INTO device (id, tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version, app_version, token_hash)
SELECT replace(id, 'user', 'dev'), tenant_id, 'hw-' || id, id, '', '', '', 'android', '', '', sha256(('ddp_' || id)::bytea) FROM agent;

-- name: customers
-- A customer for every five calls, six of ten at the large tenant. $1 is how many calls.
INSERT INTO customer (id, tenant_id, external_id, name, phone)
SELECT 'cust_' || n, 'tenant_' || CASE WHEN n % 10 < 6 THEN 0 ELSE 1 + n % 9 END, 'crm-' || n, 'Customer ' || n,
    '+86139' || lpad((n % 100000000)::text, 8, '0')
FROM generate_series(0, $1::bigint / 5) n;

-- name: calls
-- Calls $1 to $2 of $3, in the order in which they were made: all but the last $4 over the two years before today, in
-- working hours; those today, since midnight. Six of ten are the large tenant's. All have ended but for the last twenty.
WITH made AS (
    SELECT n, CASE
        WHEN n <= $3::bigint - $4::bigint THEN day.began + (n * 730 / ($3 - $4 + 1) - 730) * interval '1 day' + interval '9 hours'
            + (n * 730 % ($3 - $4 + 1))::float8 / ($3 - $4 + 1) * interval '10 hours'
        ELSE day.began + (n - $3 + $4)::float8 / ($4 + 1) * (now() - day.began)
    END AS at
    FROM generate_series($1::bigint, $2::bigint) n,
        (SELECT date_trunc('day', now() AT TIME ZONE 'Asia/Shanghai') AT TIME ZONE 'Asia/Shanghai' AS began) day
),
dice AS (
    SELECT n, at, random() AS fell, random() AS which, random() AS said, CASE WHEN n % 10 < 6 THEN 0 ELSE 1 + n % 9 END AS t,
        CASE WHEN n % 10 < 6 THEN 500 ELSE 50 END AS agents, CASE WHEN n % 10 < 6 THEN 10 ELSE 2 END AS teams, n > $3 - 20 AS live
    FROM made
),
cast_ AS (
    -- the customer is one of the same tenant: n and its customer agree in their remainders by 10 and by 9
    SELECT *, CASE WHEN live THEN n % agents ELSE floor(which * agents)::bigint END AS agent,
        n % 90 + 90 * floor(said * (($3 / 5) / 90))::bigint AS customer,
        CASE
            WHEN live THEN NULL WHEN fell < 0.35 THEN 'connected' WHEN fell < 0.65 THEN 'missed' WHEN fell < 0.73 THEN 'busy'
            WHEN fell < 0.83 THEN 'rejected' WHEN fell < 0.90 THEN 'failed' WHEN fell < 0.97 THEN 'cancelled' ELSE 'unknown'
        END AS outcome
    FROM dice
)
INSERT INTO call (
    id, tenant_id, user_id, team_id, created_by, device_id, call_method, customer_phone, customer_id, customer_name, order_id,
    external_id, version, status, outcome, closed_by, evidence, hangup_cause, created_at, dialing_at, ringing_at, connected_at,
    connected_evidence, ended_at, duration, has_recording, updated_at, reap_at, follow_up_result, follow_up_note,
    follow_up_next_at, follow_up_done_at, followed_up_at, followed_up_by
)
SELECT 'call_' || to_char(at, 'YYYYMMDD') || '_' || lpad(to_hex((extract(epoch FROM at) * 1000)::bigint), 12, '0')
        || lpad(to_hex(n), 14, '0'),
    'tenant_' || t, format('user_%s_%s', t, agent), format('team_%s_%s', t, agent % teams), format('user_%s_%s', t, agent),
    format('dev_%s_%s', t, agent), 'mobile', '+86139' || lpad((customer % 100000000)::text, 8, '0'), 'cust_' || customer,
    'Customer ' || customer, CASE WHEN n % 3 = 0 THEN 'order-' || n END, CASE WHEN n % 5 = 0 THEN 'crm-' || n END, 4,
    CASE WHEN live THEN 'connected' ELSE 'ended' END, outcome, CASE WHEN NOT live THEN 'phone' END,
    CASE WHEN NOT live THEN 'call_log' END, CASE outcome WHEN 'connected' THEN 'NORMAL_CLEARING' WHEN 'busy' THEN 'USER_BUSY'
        WHEN 'rejected' THEN 'CALL_REJECTED' WHEN 'missed' THEN 'NO_ANSWER' WHEN 'cancelled' THEN 'CANCELLED' WHEN 'unknown' THEN 'LOST'
        WHEN 'failed' THEN 'NETWORK_ERROR' END,
    at, at + interval '1 second', at + interval '4 seconds',
    CASE WHEN live OR outcome = 'connected' THEN at + interval '12 seconds' END,
    CASE WHEN live OR outcome = 'connected' THEN 'in_call_service' END,
    CASE WHEN NOT live THEN at + interval '20 seconds' + which * interval '3 minutes' END,
    CASE WHEN outcome = 'connected' THEN (8 + which * 180)::integer END, CASE WHEN outcome = 'connected' THEN false END,
    CASE WHEN live THEN at ELSE at + interval '20 seconds' + which * interval '3 minutes' END,
    CASE WHEN live THEN now() + interval '30 days' END,
    CASE WHEN outcome = 'connected' THEN '已接通' END, CASE WHEN outcome = 'connected' THEN 'Will pay on Friday.' END,
    -- of those with a next follow-up some of the last two days' are not done
    CASE WHEN outcome = 'connected' AND said < 0.2 THEN at + interval '1 day' END,
    CASE WHEN outcome = 'connected' AND said < 0.2 AND (at < now() - interval '2 days' OR fell < 0.2) THEN at + interval '1 day' END,
    CASE WHEN outcome = 'connected' THEN at + interval '5 minutes' END,
    CASE WHEN outcome = 'connected' THEN format('user_%s_%s', t, agent) END
FROM cast_;

-- name: histories
-- What was said of each call from $1 to before $2, ids: a dial, its command, and two reports.
WITH said AS (
    INSERT INTO command (id, tenant_id, call_id, device_id, type, data, created_at, expires_at, acked_at)
    SELECT replace(id, 'call_', 'msg_'), tenant_id, id, device_id, 'DIAL_COMMAND',
        json_build_object('callId', id, 'customerPhone', customer_phone), created_at, created_at + interval '20 seconds', created_at
    FROM call WHERE id >= $1 AND id < $2 AND device_id IS NOT NULL
)
INSERT INTO call_event (call_id, tenant_id, at, source, kind, effect, message_id, data)
SELECT c.id, c.tenant_id, c.created_at + e.after, e.source, e.kind, e.effect, CASE e.source WHEN 'phone' THEN e.kind || c.id END, '{}'
FROM call c
CROSS JOIN (VALUES
    (interval '0', 'agent', 'DIAL', 'created'), ('4 seconds', 'phone', 'CALL_STATUS', 'moved'), ('20 seconds', 'phone', 'CALL_END', 'moved')
) AS e (after, source, kind, effect)
WHERE c.id >= $1 AND c.id < $2;

-- name: constraints
-- The foreign keys of these tables, and how they are made.
SELECT format('ALTER TABLE %s DROP CONSTRAINT %I', conrelid::regclass, conname) AS drop,
    format('ALTER TABLE %s ADD CONSTRAINT %I %s', conrelid::regclass, conname, pg_get_constraintdef(oid)) AS make
FROM pg_constraint
WHERE contype = 'f' AND conrelid = ANY ($1::regclass[]);

-- name: indexes
-- The indexes of these tables that no constraint needs, and how they are made.
SELECT format('DROP INDEX %s', i.indexrelid::regclass) AS drop, pg_get_indexdef(i.indexrelid) AS make
FROM pg_index i
WHERE i.indrelid = ANY ($1::regclass[]) AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid);

-- name: bounds
-- The ids of every $1th call, in their order, to go through them in parts.
SELECT id FROM (SELECT id, row_number() OVER (ORDER BY id) AS place FROM call) c WHERE (place - 1) % $1 = 0 ORDER BY id;

-- name: sign_in
-- A login of each of these users.
INSERT INTO login (id, user_id, expires_at) SELECT 'login_' || u, u, now() + interval '30 days' FROM unnest($1::text[]) u
ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at;
