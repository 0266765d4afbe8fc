-- name: enlist
-- A process begins its life as a node.
INSERT INTO node (boot_id, name, kind, leased_until)
VALUES ($1, $2, $3, now() + make_interval(secs => $4::float8));

-- name: renew
-- Go on holding sessions; no row means that the lease was swept and all sessions are lost.
UPDATE node SET leased_until = now() + make_interval(secs => $2::float8)
WHERE boot_id = $1 AND swept_at IS NULL
RETURNING boot_id;

-- name: retire
-- A process leaves on purpose: its lease ends now, and the sweep finds nothing left.
UPDATE node SET leased_until = now(), swept_at = coalesce(swept_at, now()) WHERE boot_id = $1;

-- name: release_devices
-- A node that leaves on purpose gives its phones their grace: they are on their way to another.
UPDATE device SET node = NULL, lost_at = now()
WHERE id IN (SELECT id FROM device WHERE node = $1 ORDER BY id FOR UPDATE);

-- name: sweep_nodes
-- Take the lease of nodes that did not renew it.
UPDATE node SET swept_at = now()
WHERE boot_id IN (
    SELECT boot_id FROM node WHERE swept_at IS NULL AND leased_until < now() FOR UPDATE SKIP LOCKED
)
RETURNING boot_id;

-- name: haunted
-- Nodes that were swept and are said to hold something, be it still or again: a statement of theirs may come late.
SELECT n.boot_id FROM node n
WHERE n.swept_at IS NOT NULL AND (
    EXISTS (SELECT FROM agent_node a WHERE a.node = n.boot_id) OR EXISTS (SELECT FROM device d WHERE d.node = n.boot_id)
);

-- name: sweep_agents
-- Forget the pages that swept nodes held.
DELETE FROM agent_node WHERE node = ANY ($1::text[]);

-- name: sweep_devices
-- The phones of swept nodes are offline, unless a newer epoch is online elsewhere (then `node` is not theirs).
UPDATE device d SET node = NULL, online_status = 'offline', lost_at = coalesce(d.lost_at, now())
FROM (SELECT id, online_status FROM device WHERE node = ANY ($1::text[]) ORDER BY id FOR UPDATE) before
WHERE d.id = before.id
RETURNING d.id, d.user_id, d.tenant_id,
    tell_hooks(CASE before.online_status WHEN 'online' THEN 'device.offline' END, d);

-- name: forget
-- Drop nodes whose life ended a day ago.
DELETE FROM node WHERE swept_at < now() - interval '24 hours';

-- name: claim
-- Take the sessions of phones for this node, each with the next epoch. A phone whose own counter of connections has been
-- seen higher is not taken; one that was unbound, or bound anew with another token, neither. Rows lock in order of id.
WITH asked AS (
    SELECT *
    FROM unnest(
        $2::text[], $3::bytea[], $4::bigint[], $5::text[], $6::text[], $7::text[], $8::text[], $9::boolean[], $10::bytea[]
    ) AS a (id, token_hash, connection, boot_id, app_version, os_version, capabilities, handset_busy, push_token)
),
before AS (
    SELECT d.id, d.node, d.conn_epoch, d.online_status, d.lost_at
    FROM device d JOIN asked a USING (id)
    WHERE d.unbound_at IS NULL AND d.token_hash = a.token_hash AND d.connection <= a.connection
    ORDER BY d.id
    FOR NO KEY UPDATE OF d
)
UPDATE device d
SET conn_epoch = d.conn_epoch + 1,
    node = $1,
    connection = a.connection,
    boot_id = a.boot_id,
    app_version = CASE a.app_version WHEN '' THEN d.app_version ELSE a.app_version END,
    os_version = CASE a.os_version WHEN '' THEN d.os_version ELSE a.os_version END,
    capabilities = a.capabilities::jsonb,
    handset_busy = a.handset_busy,
    push_token = coalesce(a.push_token, d.push_token),
    online_status = 'online',
    lost_at = NULL,
    last_heartbeat = now()
FROM asked a, before b
WHERE d.id = a.id AND b.id = a.id
RETURNING d.id, d.tenant_id, d.user_id, d.conn_epoch, b.node AS old_node, b.online_status = 'offline' AS was_offline,
    extract(epoch FROM now() - b.lost_at)::float8 AS away, clock_timestamp() AS now,
    tell_hooks(CASE b.online_status WHEN 'offline' THEN 'device.online' END, d),
    (SELECT c.id FROM call c WHERE c.device_id = d.id AND c.ended_at IS NULL) AS live_call_id;

-- name: waiting
-- The commands that still wait for these phones, oldest first.
SELECT id, device_id, type, data
FROM command
WHERE device_id = ANY ($1::text[]) AND next_send_at IS NOT NULL AND expires_at > now()
ORDER BY created_at, id;

-- name: sent
-- These commands went out with WELCOME: the first of their sendings on the new session. They are locked by ascending id,
-- as others do.
WITH held AS MATERIALIZED (
    SELECT id FROM command WHERE id = ANY ($1::text[]) AND next_send_at IS NOT NULL ORDER BY id FOR NO KEY UPDATE
)
UPDATE command SET sends = 1, next_send_at = now() + make_interval(secs => $2::float8)
WHERE id = ANY (ARRAY(SELECT id FROM held));

-- name: tell_presence
-- What sessions say of their phones, only those of the newest epoch being heard: online, offline (silent, the socket
-- stays), lost (the socket went without a word: online until the grace is swept) or left (gone on purpose).
UPDATE device d
SET online_status = CASE p.said WHEN 'online' THEN 'online' WHEN 'lost' THEN d.online_status ELSE 'offline' END,
    lost_at = CASE WHEN p.said IN ('lost', 'left') THEN now() ELSE d.lost_at END,
    node = CASE WHEN p.said IN ('lost', 'left') THEN NULL ELSE d.node END
FROM (
    SELECT x.id, t.said, x.online_status AS before
    FROM device x JOIN unnest($1::text[], $2::bigint[], $3::text[]) AS t (id, epoch, said)
        ON x.id = t.id AND x.conn_epoch = t.epoch
    WHERE x.node IS NOT NULL
    ORDER BY x.id
    FOR NO KEY UPDATE OF x
) p
WHERE d.id = p.id
RETURNING d.id, d.user_id, d.online_status, d.online_status <> p.before AS changed,
    tell_hooks(CASE WHEN d.online_status <> p.before THEN 'device.' || d.online_status END, d);

-- name: set_busy
-- A private call on the handset began or ended.
UPDATE device SET handset_busy = $3 WHERE id = $1 AND conn_epoch = $2 AND handset_busy <> $3;

-- name: heard
-- When these phones were last heard from, as this node's sessions know it.
UPDATE device d SET last_heartbeat = now() - make_interval(secs => h.ago)
FROM (
    SELECT x.id, g.ago
    FROM device x JOIN unnest($1::text[], $2::bigint[], $3::float8[]) AS g (id, epoch, ago)
        ON x.id = g.id AND x.conn_epoch = g.epoch
    ORDER BY x.id FOR NO KEY UPDATE OF x SKIP LOCKED
) h
WHERE d.id = h.id;

-- name: fenced
-- Which of a node's sessions are no longer the true ones: the close that was to tell them so did not arrive.
SELECT g.id, g.epoch, CASE
    WHEN x.id IS NULL OR x.unbound_at IS NOT NULL THEN 'unbound'
    WHEN x.conn_epoch <> g.epoch THEN 'replaced'
    ELSE 'lost'
END AS why
FROM unnest($2::text[], $3::bigint[]) AS g (id, epoch) LEFT JOIN device x ON x.id = g.id
WHERE x.id IS NULL OR x.unbound_at IS NOT NULL OR x.conn_epoch <> g.epoch OR x.node IS DISTINCT FROM $1;

-- name: sweep_grace
-- Phones whose grace is over are offline.
UPDATE device SET online_status = 'offline'
WHERE id IN (
    SELECT id FROM device
    WHERE lost_at < now() - make_interval(secs => $1::float8) AND online_status = 'online'
    ORDER BY id LIMIT 1000 FOR UPDATE SKIP LOCKED
)
RETURNING id, user_id, tenant_id, tell_hooks('device.offline', device);

-- name: attend
-- This node holds pages of these agents now.
INSERT INTO agent_node (user_id, node) SELECT unnest($1::text[]), $2 ON CONFLICT DO NOTHING;

-- name: leave
-- This node holds no page of these agents any more.
DELETE FROM agent_node WHERE user_id = ANY ($1::text[]) AND node = $2;

-- name: ghosts
-- Phones that are said to be at this node: one without a session here was claimed by a commit whose answer was lost.
SELECT id, conn_epoch FROM device WHERE node = $1;

-- name: still_bound
-- Which of these phones are bound by these very tokens.
SELECT d.id FROM device d JOIN unnest($1::text[], $2::bytea[]) AS a (id, token_hash) USING (id, token_hash)
WHERE d.unbound_at IS NULL;

