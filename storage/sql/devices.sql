-- name: lock_agents
-- Hold still what these agents have bound, until commit; agents ascending, so that two who wait for each other cannot be.
SELECT u.id, u.disabled_at IS NULL AS enabled
FROM app_user u
WHERE u.tenant_id = $1 AND u.id = ANY ($4::text[])
    AND ($3::text[] IS NULL OR u.team_id = ANY ($3) OR u.id = $2)
ORDER BY u.id
FOR NO KEY UPDATE;

-- name: make_token
-- A new bind token for an agent, whose unused ones are void from now on.
WITH voided AS (
    DELETE FROM bind_token WHERE tenant_id = $1 AND user_id = $2 AND used_at IS NULL
)
INSERT INTO bind_token (tenant_id, user_id, created_by, hash, typed_hash, expires_at)
VALUES ($1, $2, $3, $4, $5, now() + make_interval(secs => $6::float8))
RETURNING created_at, expires_at;

-- name: find_token
-- A bind token that may still be used, by itself or by its typed code, and who has the handset now.
SELECT b.hash, b.tenant_id, b.user_id, b.created_by, b.typed_hash = $2 AS typed, t.region, d.id AS device_id, d.user_id AS owner_id
FROM bind_token b
JOIN tenant t ON t.id = b.tenant_id AND t.status = 'active'
LEFT JOIN device d ON d.tenant_id = b.tenant_id AND d.hardware_id = $3
WHERE (b.hash = $1 OR b.typed_hash = $2) AND b.used_at IS NULL AND b.expires_at > now();

-- name: use_token
-- Use a bind token up; no row means that somebody was quicker, or the clock.
UPDATE bind_token SET used_at = now()
WHERE tenant_id = $1 AND hash = $2 AND used_at IS NULL AND expires_at > now()
RETURNING hash;

-- name: void_tokens
-- Drop the bind tokens of an agent that were not used.
DELETE FROM bind_token WHERE tenant_id = $1 AND user_id = $2 AND used_at IS NULL;

-- name: expire_tokens
-- Drop a batch of bind tokens that expired a day ago.
DELETE FROM bind_token
WHERE hash = ANY (ARRAY(SELECT hash FROM bind_token WHERE expires_at < now() - interval '24 hours' ORDER BY expires_at LIMIT 5000));

-- name: add
-- The first binding of a handset in this tenant; no row means that the handset has a row already.
INSERT INTO device (tenant_id, hardware_id, user_id, phone_number, name, model, os_type, os_version, app_version, token_hash, id)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11)
ON CONFLICT (tenant_id, hardware_id) DO NOTHING
RETURNING id, conn_epoch, NULL AS old_user_id, NULL AS old_node, tell_hooks('device.bound', device);

-- name: rebind
-- Bind a handset that has a row: its token is void, its session fenced off by the next epoch, its presence unknown. Tells
-- who had it and where its session is.
WITH before AS (
    SELECT id, node, CASE WHEN unbound_at IS NULL THEN user_id END AS user_id
    FROM device WHERE tenant_id = $1 AND hardware_id = $2
    FOR NO KEY UPDATE
)
UPDATE device d
SET user_id = $3, phone_number = $4, name = $5, model = $6, os_type = $7, os_version = $8, app_version = $9, token_hash = $10,
    push_token = NULL, capabilities = '{}', bound_at = now(), unbound_at = NULL,
    conn_epoch = d.conn_epoch + 1, connection = 0, boot_id = '', node = NULL, online_status = 'offline', lost_at = NULL,
    handset_busy = false
FROM before b
WHERE d.tenant_id = $1 AND d.id = b.id
RETURNING d.id, d.conn_epoch, b.user_id AS old_user_id, b.node AS old_node, tell_hooks('device.bound', d);

-- name: keep_push_token
-- The push token of a phone, sealed.
UPDATE device SET push_token = $3 WHERE tenant_id = $1 AND id = $2;

-- name: sealed_push_tokens
-- The next push tokens of the whole installation. No tenant is named: a master key is changed for all of them.
SELECT id, push_token FROM device WHERE push_token IS NOT NULL AND id > $1 ORDER BY id LIMIT $2;

-- name: reseal_push_tokens
-- Keep push tokens of any tenants under another seal, unless they were replaced meanwhile.
UPDATE device d
SET push_token = r.now
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS r (id, before, now)
WHERE d.id = r.id AND d.push_token = r.before
RETURNING d.id;

-- name: hold
-- Lock the rows of these phones, in the order of their ids.
SELECT id FROM device WHERE tenant_id = $1 AND id = ANY ($2::text[]) ORDER BY id FOR NO KEY UPDATE;

-- name: unbind
-- Take phones from their agent; tells where their sessions are, and the epochs that fence those off.
WITH before AS (
    SELECT id, node
    FROM device WHERE tenant_id = $1 AND user_id = $2 AND id = ANY ($3::text[]) AND unbound_at IS NULL
    ORDER BY id
    FOR NO KEY UPDATE
)
UPDATE device d
SET unbound_at = now(), push_token = NULL, conn_epoch = d.conn_epoch + 1, node = NULL, online_status = 'offline', lost_at = NULL,
    handset_busy = false
FROM before b
WHERE d.tenant_id = $1 AND d.id = b.id
RETURNING d.id, b.node, d.conn_epoch, tell_hooks('device.unbound', d);

-- name: on_call
-- Whether a phone is on a call. A statement of its own after the one that locked the phone, to see a dial it waited for.
SELECT EXISTS (SELECT FROM call WHERE tenant_id = $1 AND device_id = $2 AND ended_at IS NULL);

-- name: bound_to
-- The phones of an agent.
SELECT id FROM device WHERE tenant_id = $1 AND user_id = $2 AND unbound_at IS NULL ORDER BY id;

-- name: find
-- One bound phone within reach.
SELECT d.id, d.hardware_id, d.user_id, d.phone_number, d.name, d.model, d.os_type, d.online_status, d.capabilities,
    d.bound_at, d.last_heartbeat, u.default_device_id IS NOT DISTINCT FROM d.id AS is_default, u.name AS user_name
FROM device d
JOIN app_user u ON u.tenant_id = d.tenant_id AND u.id = d.user_id
WHERE d.tenant_id = $1 AND d.id = $4 AND d.unbound_at IS NULL
    AND ($3::text[] IS NULL OR u.team_id = ANY ($3) OR u.id = $2);

-- name: list
-- The bound phones within reach, or those of one agent, the newest binding first.
SELECT d.id, d.hardware_id, d.user_id, d.phone_number, d.name, d.model, d.os_type, d.online_status, d.capabilities,
    d.bound_at, d.last_heartbeat, u.default_device_id IS NOT DISTINCT FROM d.id AS is_default, u.name AS user_name
FROM device d
JOIN app_user u ON u.tenant_id = d.tenant_id AND u.id = d.user_id
WHERE d.tenant_id = $1 AND ($4::text IS NULL OR d.user_id = $4) AND d.unbound_at IS NULL
    AND ($5::text IS NULL OR d.online_status = $5)
    AND ($3::text[] IS NULL OR u.team_id = ANY ($3) OR u.id = $2)
ORDER BY d.bound_at DESC, d.id DESC
LIMIT $6 OFFSET $7;

-- name: count
-- How many phones `list` would tell without its limit.
SELECT count(*)
FROM device d
JOIN app_user u ON u.tenant_id = d.tenant_id AND u.id = d.user_id
WHERE d.tenant_id = $1 AND ($4::text IS NULL OR d.user_id = $4) AND d.unbound_at IS NULL
    AND ($5::text IS NULL OR d.online_status = $5)
    AND ($3::text[] IS NULL OR u.team_id = ANY ($3) OR u.id = $2);

-- name: log
-- Write what became of phones into the bind log, as their rows tell it; an unbinding repeats the way the phone was bound.
INSERT INTO device_bind_log
    (tenant_id, user_id, device_id, hardware_id, phone_number, device_name, device_model, os_type, bind_type, action, reason, ip)
SELECT d.tenant_id, d.user_id, d.id, d.hardware_id, d.phone_number, d.name, d.model, d.os_type,
    coalesce(
        $3,
        (
            SELECT l.bind_type FROM device_bind_log l
            WHERE l.tenant_id = d.tenant_id AND l.device_id = d.id
            ORDER BY l.id DESC LIMIT 1
        ),
        'qrcode'
    ),
    $4, $5, $6::text::inet
FROM device d
WHERE d.tenant_id = $1 AND d.id = ANY ($2::text[])
ORDER BY d.id;

-- name: read_log
-- The bind log of the agents within reach, the newest line first.
SELECT l.id, l.user_id, l.device_id, l.hardware_id, l.phone_number, l.device_name, l.device_model, l.os_type, l.bind_type,
    l.action, l.reason, host(l.ip) AS ip, l.at, u.name AS user_name
FROM device_bind_log l
JOIN app_user u ON u.tenant_id = l.tenant_id AND u.id = l.user_id
WHERE l.tenant_id = $1 AND ($4::text IS NULL OR l.user_id = $4) AND ($5::bigint IS NULL OR l.id < $5)
    AND ($3::text[] IS NULL OR u.team_id = ANY ($3) OR u.id = $2)
ORDER BY l.id DESC
LIMIT $6;

-- name: choose_first
-- A phone becomes the default of an agent who has none.
UPDATE app_user SET default_device_id = $3, updated_at = now()
WHERE tenant_id = $1 AND id = $2 AND default_device_id IS NULL;

-- name: forget_default
-- These phones are not the agent's default any more.
UPDATE app_user SET default_device_id = NULL, updated_at = now()
WHERE tenant_id = $1 AND id = $2 AND default_device_id = ANY ($3::text[]);

-- name: outbound
-- How an agent calls out (seed 003 §6.1).
SELECT call_method, default_device_id, default_line_id, call_parameters
FROM app_user
WHERE tenant_id = $1 AND id = $2;

-- name: put_outbound
-- Set how an agent calls out.
UPDATE app_user
SET call_method = $3, default_device_id = $4, default_line_id = $5, call_parameters = $6::text::jsonb, updated_at = now()
WHERE tenant_id = $1 AND id = $2;
