-- name: take_attempt
-- Take one of the attempts a user has before it is locked, before the password is looked at, so that guesses made at
-- once are counted like guesses made in turn. No row where the user is locked or unknown. The tenant is not known yet.
UPDATE app_user
SET failed_logins = CASE WHEN locked_until IS NULL THEN failed_logins + 1 ELSE 1 END,
    locked_until = CASE
        WHEN CASE WHEN locked_until IS NULL THEN failed_logins + 1 ELSE 1 END >= $2
        THEN now() + make_interval(secs => $3::float8)
    END
WHERE lower(username) = lower($1) AND (locked_until IS NULL OR locked_until <= now())
RETURNING id, tenant_id, username, password_hash, locked_until;

-- name: locked_until
-- Until when a user is locked, if it is.
SELECT locked_until FROM app_user WHERE lower(username) = lower($1) AND locked_until > now();

-- name: give_back_attempts
-- The password was right: attempts are counted anew. No row where the password has been changed meanwhile.
UPDATE app_user
SET failed_logins = 0, locked_until = NULL, password_hash = coalesce($3, password_hash)
WHERE id = $1 AND password_hash = $2
RETURNING id;

-- name: change_password
-- Give a user the password it chose, if it still has the one that was checked.
UPDATE app_user
SET password_hash = $3, must_change_password = false, failed_logins = 0, locked_until = NULL, updated_at = now()
WHERE id = $1 AND password_hash = $2
RETURNING id;

-- name: open_login
-- Begin a login; one that grew from an API key does not outlive the key.
INSERT INTO login (id, user_id, expires_at, ip, user_agent, api_key_id)
SELECT $1, $2, least(now() + make_interval(secs => $3::float8), (SELECT expires_at FROM api_key WHERE id = $6)),
    $4::text::inet, $5, $6;

-- name: add_refresh_token
-- The login's next refresh token.
INSERT INTO refresh_token (hash, login_id) VALUES ($1, $2);

-- name: spend_refresh_token
-- Use a refresh token, once. Of two who try at the same time the second finds no row.
UPDATE refresh_token SET used_at = now() WHERE hash = $1 AND used_at IS NULL RETURNING login_id;

-- name: login_of_refresh_token
-- Whose refresh token it is.
SELECT login_id FROM refresh_token WHERE hash = $1;

-- name: extend_login
-- Let a login that is not over live on.
UPDATE login
SET expires_at = least(now() + make_interval(secs => $2::float8), (SELECT expires_at FROM api_key k WHERE k.id = api_key_id))
WHERE id = $1 AND revoked_at IS NULL AND expires_at > now()
RETURNING user_id;

-- name: end_login
-- Revoke one login and tell the nodes that hold pages of its user; no row where it was revoked before.
UPDATE login l SET revoked_at = now(), revoke_reason = $2
FROM app_user u
WHERE l.id = $1 AND l.revoked_at IS NULL AND u.id = l.user_id
RETURNING l.id, l.user_id, u.tenant_id, ARRAY(SELECT n.node FROM agent_node n WHERE n.user_id = l.user_id) AS nodes;

-- name: end_logins
-- Revoke the logins of a user, but for the one that asks.
UPDATE login l SET revoked_at = now(), revoke_reason = $3
FROM app_user u
WHERE l.user_id = $1 AND l.revoked_at IS NULL AND l.id IS DISTINCT FROM $2 AND u.id = l.user_id
RETURNING l.id, l.user_id, u.tenant_id, ARRAY(SELECT n.node FROM agent_node n WHERE n.user_id = l.user_id) AS nodes;

-- name: end_logins_of_key
-- Revoke the logins that grew from an API key.
UPDATE login l SET revoked_at = now(), revoke_reason = $2
FROM app_user u
WHERE l.api_key_id = $1 AND l.revoked_at IS NULL AND u.id = l.user_id
RETURNING l.id, l.user_id, u.tenant_id, ARRAY(SELECT n.node FROM agent_node n WHERE n.user_id = l.user_id) AS nodes;

-- name: by_logins
-- All that requests of users are judged on. The tenant is not known before this row is read; a login that grew from an
-- API key never asks for a change of password, because nobody typed one.
SELECT a.n, u.id AS user_id, u.tenant_id, u.role, r.reach, u.must_change_password AND l.api_key_id IS NULL AS must_change_password,
    l.revoked_at IS NOT NULL OR l.expires_at <= now() AS over,
    u.disabled_at IS NOT NULL AS disabled, t.status IS NOT DISTINCT FROM 'suspended' AS suspended,
    ARRAY(SELECT p.permission FROM role_permission p WHERE p.role = u.role) AS permissions,
    ARRAY(SELECT s.team_id FROM team_supervisor s WHERE s.user_id = u.id ORDER BY s.team_id) AS teams
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS a (login_id, user_id, n)
JOIN LATERAL (SELECT * FROM login WHERE id = a.login_id OFFSET 0) l ON l.user_id = a.user_id
JOIN LATERAL (SELECT * FROM app_user WHERE id = l.user_id OFFSET 0) u ON true
JOIN role r ON r.code = u.role
LEFT JOIN LATERAL (SELECT * FROM tenant WHERE id = u.tenant_id OFFSET 0) t ON true;

-- name: over
-- Which of these logins let nobody in any more: those that were revoked, have expired or are gone, and those of disabled
-- users and of suspended tenants.
SELECT asked.id
FROM unnest($1::text[]) AS asked (id)
WHERE NOT EXISTS (
    SELECT
    FROM login l
    JOIN app_user u ON u.id = l.user_id AND u.disabled_at IS NULL
    LEFT JOIN tenant t ON t.id = u.tenant_id
    WHERE l.id = asked.id AND l.revoked_at IS NULL AND l.expires_at > now() AND t.status IS DISTINCT FROM 'suspended'
);

-- name: by_api_key
-- All that a request by API key is judged on.
SELECT k.id, k.tenant_id, k.scopes, t.status = 'suspended' AS suspended,
    k.revoked_at IS NOT NULL OR coalesce(k.expires_at <= now(), false) AS over,
    coalesce(k.last_used_at < now() - interval '1 minute', true) AS unseen
FROM api_key k JOIN tenant t ON t.id = k.tenant_id
WHERE k.hash = $1;

-- name: hold_api_key
-- Let nobody revoke the key before this transaction ends; no row where it is revoked already.
SELECT id FROM api_key WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL FOR SHARE;

-- name: seen_api_key
-- An API key is in use; told once a minute.
UPDATE api_key SET last_used_at = now()
WHERE id = $1 AND coalesce(last_used_at < now() - interval '1 minute', true);

-- name: by_device_tokens
-- All that requests of phones are judged on. Unbinding replaces the hash, so the token of an unbound phone is unknown.
SELECT d.id, d.tenant_id, d.hardware_id, d.user_id, d.token_hash,
    u.disabled_at IS NOT NULL AS disabled, t.status = 'suspended' AS suspended
FROM (SELECT * FROM device WHERE token_hash = ANY ($1::bytea[]) OFFSET 0) d
JOIN LATERAL (SELECT * FROM app_user WHERE id = d.user_id OFFSET 0) u ON true
JOIN LATERAL (SELECT * FROM tenant WHERE id = d.tenant_id OFFSET 0) t ON true
WHERE d.unbound_at IS NULL;

-- name: pages_of_tenant
-- The nodes that hold pages of a tenant's agents.
SELECT n.user_id, array_agg(n.node) AS nodes
FROM agent_node n JOIN app_user u ON u.id = n.user_id
WHERE u.tenant_id = $1
GROUP BY n.user_id;

-- name: phones_of_tenant
-- The nodes that hold a tenant's phones.
SELECT id, node FROM device WHERE tenant_id = $1 AND node IS NOT NULL;

-- name: expire
-- Drop a batch of logins that ended a week ago, with their refresh tokens.
DELETE FROM login
WHERE ctid = ANY (ARRAY(SELECT ctid FROM login WHERE expires_at < now() - interval '7 days' ORDER BY expires_at LIMIT 5000));

-- name: create_api_key
-- Make an API key, unless the tenant has one of that name.
INSERT INTO api_key (id, tenant_id, name, prefix, hash, scopes, created_by, expires_at)
VALUES ($2, $1, $3, $4, $5, $6, $7, $8)
ON CONFLICT (tenant_id, name) WHERE revoked_at IS NULL DO NOTHING
RETURNING created_at;

-- name: count_api_keys
-- How many API keys a tenant has.
SELECT count(*) FROM api_key WHERE tenant_id = $1;

-- name: api_keys
-- One page of a tenant's API keys, newest first.
SELECT id, name, prefix, scopes, created_by, created_at, expires_at, last_used_at, revoked_at
FROM api_key
WHERE tenant_id = $1
ORDER BY id DESC
LIMIT $2 OFFSET $3;

-- name: revoke_api_key
-- Revoke an API key; no row where it was revoked before or is not the tenant's.
UPDATE api_key SET revoked_at = now() WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL RETURNING name;

-- name: has_api_key
-- Whether an API key is the tenant's.
SELECT EXISTS (SELECT FROM api_key WHERE tenant_id = $1 AND id = $2);
