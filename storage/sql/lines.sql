-- name: create
-- Make a line. Duplicate where another has its name, or is set up for its account.
INSERT INTO call_line (tenant_id, id, provider, name, account_id, caller_number, settings, allowed_networks, callback_url,
    status, priority, weight, max_concurrent, daily_limit, user_daily_limit, call_timeout, max_retry, window_start, window_end,
    interval_minutes, extension_policy, case_types, tags, ext_data, secrets, key_id, hints, token_hash, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22, $23,
    $24::text::jsonb, $25, $26, $27::text::jsonb, $28, $29);

-- name: lock
-- Let nobody else change, delete or dial over a line before this transaction ends; no row where there is none.
SELECT id FROM call_line WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL FOR NO KEY UPDATE;

-- name: line
-- One line, with how much it is used; with $3 only if that user has a seat on it.
SELECT l.id, l.provider, l.name, l.account_id, l.caller_number, l.settings, l.hints, l.allowed_networks, l.callback_url, l.status,
    l.priority, l.weight, l.max_concurrent, l.daily_limit, l.user_daily_limit, l.call_timeout, l.max_retry, l.window_start,
    l.window_end, l.interval_minutes, l.extension_policy, l.case_types, l.tags, l.ext_data, l.health, l.failures,
    l.health_reason, l.health_at, l.heard_at, l.version, l.created_by, l.created_at, l.updated_by, l.updated_at,
    (SELECT count(*) FROM call c WHERE c.line_id = l.id AND c.tenant_id = $1 AND c.ended_at IS NULL) AS concurrent,
    coalesce((SELECT d.attempts FROM line_day d WHERE d.line_id = l.id AND d.tenant_id = $1
        AND d.day = (now() AT TIME ZONE t.timezone)::date), 0) AS today,
    (SELECT count(*) FROM line_seat s WHERE s.line_id = l.id AND s.tenant_id = $1) AS seats
FROM call_line l
JOIN tenant t ON t.id = l.tenant_id
WHERE l.tenant_id = $1 AND l.id = $2 AND l.deleted_at IS NULL
    AND ($3::text IS NULL OR EXISTS (SELECT FROM line_seat s WHERE s.line_id = l.id AND s.tenant_id = $1 AND s.user_id = $3));

-- name: count_lines
-- How many lines a search finds.
SELECT count(*)
FROM call_line l
WHERE l.tenant_id = $1 AND l.deleted_at IS NULL
    AND ($2::text IS NULL OR EXISTS (SELECT FROM line_seat s WHERE s.line_id = l.id AND s.tenant_id = $1 AND s.user_id = $2))
    AND ($3::text IS NULL OR l.provider = $3)
    AND ($4::smallint IS NULL OR l.status = $4)
    AND ($5::text IS NULL OR strpos(lower(l.name), lower($5)) > 0);

-- name: lines
-- One page of the lines that a search finds, in the order in which they are taken.
SELECT l.id, l.provider, l.name, l.account_id, l.caller_number, l.settings, l.hints, l.allowed_networks, l.callback_url, l.status,
    l.priority, l.weight, l.max_concurrent, l.daily_limit, l.user_daily_limit, l.call_timeout, l.max_retry, l.window_start,
    l.window_end, l.interval_minutes, l.extension_policy, l.case_types, l.tags, l.ext_data, l.health, l.failures,
    l.health_reason, l.health_at, l.heard_at, l.version, l.created_by, l.created_at, l.updated_by, l.updated_at,
    (SELECT count(*) FROM call c WHERE c.line_id = l.id AND c.tenant_id = $1 AND c.ended_at IS NULL) AS concurrent,
    coalesce((SELECT d.attempts FROM line_day d WHERE d.line_id = l.id AND d.tenant_id = $1
        AND d.day = (now() AT TIME ZONE t.timezone)::date), 0) AS today,
    (SELECT count(*) FROM line_seat s WHERE s.line_id = l.id AND s.tenant_id = $1) AS seats
FROM call_line l
JOIN tenant t ON t.id = l.tenant_id
WHERE l.tenant_id = $1 AND l.deleted_at IS NULL
    AND ($2::text IS NULL OR EXISTS (SELECT FROM line_seat s WHERE s.line_id = l.id AND s.tenant_id = $1 AND s.user_id = $2))
    AND ($3::text IS NULL OR l.provider = $3)
    AND ($4::smallint IS NULL OR l.status = $4)
    AND ($5::text IS NULL OR strpos(lower(l.name), lower($5)) > 0)
ORDER BY l.priority, l.name
LIMIT $6 OFFSET $7;

-- name: change
-- Write what is configured of a line, which is locked. A changed line is tried again, whatever was found of it before.
UPDATE call_line
SET name = $3, account_id = $4, caller_number = $5, settings = $6::text::jsonb, allowed_networks = $7, callback_url = $8,
    status = $9, priority = $10, weight = $11, max_concurrent = $12, daily_limit = $13, user_daily_limit = $14,
    call_timeout = $15, max_retry = $16, window_start = $17, window_end = $18, interval_minutes = $19, extension_policy = $20,
    case_types = $21, tags = $22, ext_data = $23::text::jsonb, updated_by = $24, version = version + 1, updated_at = now(),
    health = 'ok', failures = 0, probe_at = NULL, health_reason = NULL,
    health_at = CASE WHEN health = 'ok' THEN health_at ELSE now() END
WHERE tenant_id = $1 AND id = $2;

-- name: sealed
-- What a line keeps sealed, and under which key.
SELECT provider, settings, secrets, key_id, version
FROM call_line
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL;

-- name: reseal
-- Keep other credentials of a line, which is locked.
UPDATE call_line SET secrets = $3, key_id = $4, hints = $5::text::jsonb WHERE tenant_id = $1 AND id = $2;

-- name: live_calls
-- How many calls a line carries now.
SELECT count(*) FROM call WHERE tenant_id = $1 AND line_id = $2 AND ended_at IS NULL;

-- name: delete
-- Nobody sees or dials over the line any more, and its credentials are gone; what it carried stays readable.
WITH seats AS (
    DELETE FROM line_seat WHERE tenant_id = $1 AND line_id = $2
), chosen AS (
    UPDATE app_user SET default_line_id = NULL, updated_at = now() WHERE tenant_id = $1 AND default_line_id = $2
)
UPDATE call_line
SET secrets = NULL, key_id = NULL, hints = '{}', status = 0, probe_at = NULL, deleted_at = now(), updated_by = $3,
    updated_at = now(), version = version + 1
WHERE tenant_id = $1 AND id = $2;

-- name: restore
-- The line works: what was found against it is over.
UPDATE call_line
SET health = 'ok', failures = 0, probe_at = NULL, health_reason = NULL, health_at = now()
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND (health <> 'ok' OR failures > 0)
RETURNING health;

-- name: by_token
-- The line to which a callback URL belongs. No tenant is named: the token is what tells it.
SELECT tenant_id, id AS line_id, provider, allowed_networks FROM call_line WHERE token_hash = $1 AND deleted_at IS NULL;

-- name: for_dial
-- Every line of a tenant as a dial of one of its agents sees it, in the order in which lines are taken.
SELECT l.id, l.name, l.provider, l.status, l.priority, l.weight, l.health, l.failures, l.probe_at, l.caller_number,
    (SELECT count(*) FROM call c WHERE c.line_id = l.id AND c.tenant_id = $1 AND c.ended_at IS NULL) AS concurrent,
    l.max_concurrent, coalesce(d.attempts, 0) AS today, l.daily_limit, today.day, l.window_start, l.window_end, s.seat_id,
    s.number, l.call_timeout, l.case_types, l.tags, l.extension_policy,
    (l.provider = 'infinity' AND coalesce(s.seat_id, '') = '') OR (l.provider = 'custom' AND EXISTS (
        SELECT FROM extension e WHERE e.line_id = l.id AND e.tenant_id = $1)) AS needs_extension
FROM tenant t
CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE t.timezone)::date AS day) today
JOIN call_line l ON l.tenant_id = t.id AND l.deleted_at IS NULL
LEFT JOIN line_day d ON d.line_id = l.id AND d.tenant_id = $1 AND d.day = today.day
LEFT JOIN line_seat s ON s.line_id = l.id AND s.tenant_id = $1 AND s.user_id = $2
WHERE t.id = $1
ORDER BY l.priority, l.id;

-- name: local_time
-- The time of day at a tenant.
SELECT (now() AT TIME ZONE timezone)::time FROM tenant WHERE id = $1;

-- name: is_test_number
-- Whether a line under test may dial a number.
SELECT EXISTS (SELECT FROM test_number WHERE tenant_id = $1 AND phone = $2);

-- name: trial_numbers
-- Which numbers a line under test may dial.
SELECT phone, note FROM test_number WHERE tenant_id = $1 ORDER BY phone COLLATE "C";

-- name: lock_trial_numbers
-- Let nobody else replace them before this transaction ends.
SELECT FROM tenant WHERE id = $1 FOR NO KEY UPDATE;

-- name: drop_trial_numbers
-- Lines under test dial these, and no other, any more.
DELETE FROM test_number WHERE tenant_id = $1 AND phone <> ALL ($2::text[]);

-- name: put_trial_numbers
-- Lines under test may dial these.
INSERT INTO test_number (tenant_id, phone, note, created_by)
SELECT $1, new.phone, new.note, $4 FROM unnest($2::text[], $3::text[]) AS new (phone, note)
ON CONFLICT (tenant_id, phone) DO UPDATE SET note = excluded.note;

-- name: room
-- How much of a line, which is locked, is free.
SELECT l.status, l.health, l.max_concurrent, coalesce(d.attempts, 0) AS today, l.daily_limit, today.day,
    (SELECT count(*) FROM call c WHERE c.line_id = l.id AND c.tenant_id = $1 AND c.ended_at IS NULL) AS concurrent
FROM tenant t
CROSS JOIN LATERAL (SELECT (now() AT TIME ZONE t.timezone)::date AS day) today
JOIN call_line l ON l.tenant_id = t.id AND l.id = $2
LEFT JOIN line_day d ON d.line_id = l.id AND d.tenant_id = $1 AND d.day = today.day
WHERE t.id = $1;

-- name: count_attempt
-- One more call over the line on a day of its tenant.
INSERT INTO line_day (tenant_id, line_id, day, attempts)
VALUES ($1, $2, $3, 1)
ON CONFLICT (line_id, day) DO UPDATE SET attempts = line_day.attempts + 1;

-- name: seats
-- Who of those within reach has a seat on a line.
SELECT s.user_id, u.name AS user_name, s.seat_id, s.number, s.updated_at
FROM line_seat s
JOIN app_user u ON u.tenant_id = s.tenant_id AND u.id = s.user_id
WHERE s.tenant_id = $1 AND s.line_id = $2 AND ($3::text IS NULL OR s.user_id = $3)
    AND ($4::text[] IS NULL OR u.team_id = ANY ($4))
ORDER BY u.name, s.user_id;

-- name: seat
-- One agent's seat on a line.
SELECT seat_id, number FROM line_seat WHERE tenant_id = $1 AND line_id = $2 AND user_id = $3;

-- name: has_user
-- Whether the tenant has such a user.
SELECT EXISTS (SELECT FROM app_user WHERE tenant_id = $1 AND id = $2);

-- name: put_seat
-- Who an agent is at the line's provider.
INSERT INTO line_seat (tenant_id, line_id, user_id, seat_id, number)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (line_id, user_id) DO UPDATE SET seat_id = EXCLUDED.seat_id, number = EXCLUDED.number, updated_at = now();

-- name: delete_seat
-- The agent calls over the line no more.
DELETE FROM line_seat WHERE tenant_id = $1 AND line_id = $2 AND user_id = $3;
