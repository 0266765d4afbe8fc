-- name: create_tenant
-- Make a tenant, unless its code is taken.
INSERT INTO tenant (id, code, name, timezone, region)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (code) DO NOTHING
RETURNING id;

-- name: tenant
-- One tenant with its configuration.
SELECT id, code, name, timezone, region, status, call_results, call_intentions, recording_enabled, recording_notice,
    recording_days, calls_enabled, to_char(calling_from, 'HH24:MI') AS calling_from,
    to_char(calling_to, 'HH24:MI') AS calling_to, created_at
FROM tenant
WHERE id = $1;

-- name: lock_tenant
-- Let nobody else change the tenant or decide who is its last admin before this transaction ends.
SELECT id, code, name, timezone, region, status, call_results, call_intentions, recording_enabled, recording_notice,
    recording_days, calls_enabled, to_char(calling_from, 'HH24:MI') AS calling_from,
    to_char(calling_to, 'HH24:MI') AS calling_to, created_at
FROM tenant
WHERE id = $1
FOR NO KEY UPDATE;

-- name: count_tenants
-- How many tenants a search finds.
SELECT count(*)
FROM tenant
WHERE $1::text IS NULL OR strpos(code, lower($1)) > 0 OR strpos(lower(name), lower($1)) > 0;

-- name: tenants
-- One page of the tenants a search finds, by code.
SELECT id, code, name, timezone, region, status, call_results, call_intentions, recording_enabled, recording_notice,
    recording_days, calls_enabled, to_char(calling_from, 'HH24:MI') AS calling_from,
    to_char(calling_to, 'HH24:MI') AS calling_to, created_at
FROM tenant
WHERE $1::text IS NULL OR strpos(code, lower($1)) > 0 OR strpos(lower(name), lower($1)) > 0
ORDER BY code
LIMIT $2 OFFSET $3;

-- name: is_timezone
-- Whether days can be told in a time zone.
SELECT EXISTS (SELECT FROM pg_timezone_names WHERE name = $1);

-- name: change_tenant
-- Write what a tenant's own configuration and the installation say of it.
UPDATE tenant
SET name = $2, timezone = $3, status = $4, call_results = $5, call_intentions = $6, recording_enabled = $7,
    recording_notice = $8, recording_days = $9, calls_enabled = $10, calling_from = $11::text::time,
    calling_to = $12::text::time, updated_at = now()
WHERE id = $1;

-- name: create_team
-- Make a team, unless its tenant has one of that name.
INSERT INTO team (id, tenant_id, name)
VALUES ($2, $1, $3)
ON CONFLICT (tenant_id, name) DO NOTHING
RETURNING created_at;

-- name: count_teams
-- How many teams of a tenant are within reach.
SELECT count(*)
FROM team
WHERE tenant_id = $1 AND ($2::text[] IS NULL OR id = ANY ($2));

-- name: teams
-- One page of the teams within reach, with how many enabled users each has.
SELECT t.id, t.name, t.created_at,
    (SELECT count(*) FROM app_user u WHERE u.tenant_id = $1 AND u.team_id = t.id AND u.disabled_at IS NULL) AS members
FROM team t
WHERE t.tenant_id = $1 AND ($2::text[] IS NULL OR t.id = ANY ($2))
ORDER BY t.name
LIMIT $3 OFFSET $4;

-- name: team_ids
-- The ids of a tenant's teams by name.
SELECT id, name
FROM team
WHERE tenant_id = $1;

-- name: hold_teams
-- Find which of these teams the tenant has, and let none of them be deleted before this transaction ends.
SELECT id
FROM team
WHERE tenant_id = $1 AND id = ANY ($2::text[])
ORDER BY id
FOR KEY SHARE;

-- name: lock_team
-- Let nobody join the team, or change it, before this transaction ends.
SELECT id, name
FROM team
WHERE tenant_id = $1 AND id = $2
FOR UPDATE;

-- name: rename_team
-- Give a team another name.
UPDATE team SET name = $3 WHERE tenant_id = $1 AND id = $2;

-- name: team_in_use
-- Whether somebody is in the team, or a call was made in it.
SELECT EXISTS (SELECT FROM app_user WHERE tenant_id = $1 AND team_id = $2)
    OR EXISTS (SELECT FROM call WHERE tenant_id = $1 AND team_id = $2);

-- name: delete_team
-- Drop a team that nobody uses.
DELETE FROM team WHERE tenant_id = $1 AND id = $2;

-- name: roles
-- The roles with their permissions.
SELECT code, name, reach, ARRAY(SELECT permission FROM role_permission WHERE role = code ORDER BY permission) AS permissions
FROM role
ORDER BY code;

-- name: create_user
-- Make a user with the teams it supervises and, within a tenant, its stream of events; unless the name is taken.
WITH added AS (
    INSERT INTO app_user (id, tenant_id, username, name, role, team_id, password_hash, must_change_password)
    VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
    ON CONFLICT (lower(username)) DO NOTHING
    RETURNING id, tenant_id
),
stream AS (
    INSERT INTO agent_stream (user_id, tenant_id) SELECT id, tenant_id FROM added WHERE tenant_id IS NOT NULL
),
supervised AS (
    INSERT INTO team_supervisor (tenant_id, team_id, user_id)
    SELECT tenant_id, unnest($9::text[]), id FROM added
)
SELECT id FROM added;

-- name: user
-- One user within reach; a system_admin has no tenant.
SELECT u.id, u.tenant_id, u.username, u.name, u.role, u.team_id, t.name AS team_name, u.must_change_password, u.disabled_at,
    CASE WHEN u.locked_until > now() THEN u.locked_until END AS locked_until, u.created_at,
    ARRAY(SELECT s.team_id FROM team_supervisor s WHERE s.user_id = u.id ORDER BY s.team_id) AS supervised_teams
FROM app_user u LEFT JOIN team t ON t.tenant_id = u.tenant_id AND t.id = u.team_id
WHERE u.id = $2 AND u.tenant_id IS NOT DISTINCT FROM $1
    AND ($3::text IS NULL OR u.id = $3) AND ($4::text[] IS NULL OR u.team_id = ANY ($4));

-- name: lock_user
-- Let nobody else change the user, or sign in as it, before this transaction ends.
SELECT id FROM app_user WHERE id = $2 AND tenant_id IS NOT DISTINCT FROM $1 FOR NO KEY UPDATE;

-- name: tenant_of_admin
-- The tenant of a user whom the installation's own admins may reach.
SELECT tenant_id FROM app_user WHERE id = $1 AND role = 'tenant_admin';

-- name: count_users
-- How many users within reach a search finds.
SELECT count(*)
FROM app_user u
WHERE u.tenant_id = $1 AND ($2::text IS NULL OR u.id = $2) AND ($3::text[] IS NULL OR u.team_id = ANY ($3))
    AND ($4::text IS NULL OR u.role = $4) AND ($5::text IS NULL OR u.team_id = $5)
    AND ($6::boolean IS NULL OR (u.disabled_at IS NOT NULL) = $6)
    AND ($7::text IS NULL OR strpos(lower(u.username), lower($7)) > 0 OR strpos(lower(u.name), lower($7)) > 0);

-- name: users
-- One page of the users within reach that a search finds, by user name.
SELECT u.id, u.tenant_id, u.username, u.name, u.role, u.team_id, t.name AS team_name, u.must_change_password, u.disabled_at,
    CASE WHEN u.locked_until > now() THEN u.locked_until END AS locked_until, u.created_at,
    ARRAY(SELECT s.team_id FROM team_supervisor s WHERE s.user_id = u.id ORDER BY s.team_id) AS supervised_teams
FROM app_user u LEFT JOIN team t ON t.tenant_id = u.tenant_id AND t.id = u.team_id
WHERE u.tenant_id = $1 AND ($2::text IS NULL OR u.id = $2) AND ($3::text[] IS NULL OR u.team_id = ANY ($3))
    AND ($4::text IS NULL OR u.role = $4) AND ($5::text IS NULL OR u.team_id = $5)
    AND ($6::boolean IS NULL OR (u.disabled_at IS NOT NULL) = $6)
    AND ($7::text IS NULL OR strpos(lower(u.username), lower($7)) > 0 OR strpos(lower(u.name), lower($7)) > 0)
ORDER BY lower(u.username)
LIMIT $8 OFFSET $9;

-- name: change_user
-- Write a user's name, role and team.
UPDATE app_user SET name = $3, role = $4, team_id = $5, updated_at = now() WHERE tenant_id = $1 AND id = $2;

-- name: supervise
-- Let a user supervise these teams and no others.
WITH dropped AS (
    DELETE FROM team_supervisor WHERE tenant_id = $1 AND user_id = $2 AND NOT team_id = ANY ($3::text[])
)
INSERT INTO team_supervisor (tenant_id, team_id, user_id)
SELECT $1, unnest($3::text[]), $2
ON CONFLICT DO NOTHING;

-- name: other_admins
-- How many enabled admins a tenant has beside this user.
SELECT count(*)
FROM app_user
WHERE tenant_id = $1 AND role = 'tenant_admin' AND disabled_at IS NULL AND id <> $2;

-- name: set_disabled
-- Disable or enable a user; no row where it is so already.
UPDATE app_user SET disabled_at = CASE WHEN $3 THEN now() END, updated_at = now()
WHERE id = $2 AND tenant_id IS NOT DISTINCT FROM $1 AND (disabled_at IS NOT NULL) <> $3
RETURNING id;

-- name: reset_password
-- Give a user a password that somebody else chose: it must be changed first, and no lock-out goes on.
UPDATE app_user
SET password_hash = $3, must_change_password = true, failed_logins = 0, locked_until = NULL, updated_at = now()
WHERE id = $2 AND tenant_id IS NOT DISTINCT FROM $1
RETURNING id;

-- name: unlock
-- End a lock-out.
UPDATE app_user SET failed_logins = 0, locked_until = NULL WHERE tenant_id = $1 AND id = $2;
