-- name: tenant
-- What the tenant chose, and what day it is there.
SELECT timezone, region, call_results, call_intentions, now() AS now, (now() AT TIME ZONE timezone)::date AS today
FROM tenant
WHERE id = $1;

-- name: get
-- One call within reach, with the talk seconds of one that is going on, and what can be done to it now.
SELECT c.*, u.name AS user_name, floor(extract(epoch FROM now() - c.connected_at))::integer AS talking,
    CASE
        WHEN c.ended_at IS NOT NULL THEN '{}'
        WHEN c.device_id IS NULL THEN coalesce((
            SELECT a.controls FROM attempt a WHERE a.tenant_id = $1 AND a.call_id = c.id ORDER BY a.n DESC LIMIT 1), '{}')
        WHEN c.status = 'pending' OR (
            SELECT d.capabilities @> '{"hangUp": true}' FROM device d WHERE d.tenant_id = $1 AND d.id = c.device_id
        ) THEN '{hang_up}'
        ELSE '{}'::text[]
    END AS controls
FROM call c
JOIN app_user u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
WHERE c.tenant_id = $1 AND c.id = $5
    AND ($2::text IS NULL OR c.user_id = $2) AND ($3::text[] IS NULL OR c.team_id = ANY ($3) OR c.user_id = $4);

-- name: events
-- The history of one call, oldest first.
SELECT at, source, kind, effect, data
FROM call_event
WHERE tenant_id = $1 AND call_id = $2
ORDER BY id
LIMIT $3;

-- name: newest
-- Calls within reach, newest first. Like every list here it looks at $7 calls at most, found by index, and returns those
-- that are wanted and the last one looked at, the edge. Each team is looked at by its own index; without teams there is
-- one row to look for, and no condition on it. What stands for a recording is told by server/records.py alike.
-- Calls are numbered in the order of the list: numbered in none, all would be looked at before the first is returned.
SELECT c.*, u.name AS user_name
FROM (SELECT DISTINCT unnest(coalesce($3::text[], '{everyone}'))) AS reached (team_id)
CROSS JOIN LATERAL (
    SELECT *
    FROM (
        SELECT *,
            ($8::text[] IS NULL OR outcome = ANY ($8)) AND ($9::text IS NULL OR call_method = $9)
                AND ($10::text IS NULL OR device_id = $10)
                AND ($20::text[] IS NULL OR coalesce(
                    recording_status, CASE WHEN record AND has_recording THEN 'awaited' ELSE 'none' END) = ANY ($20)) AS wanted,
            row_number() OVER (ORDER BY created_at DESC, id DESC) = $7 AS edge
        FROM (
            SELECT *
            FROM call
            WHERE tenant_id = $1
                AND ($2::text IS NULL OR user_id = $2) AND ($3::text[] IS NULL OR team_id = reached.team_id)
                AND ($4::timestamptz IS NULL OR (created_at, id) < ($4, $5))
                AND ($11::text IS NULL OR status = $11)
                AND ($12::text IS NULL OR user_id = $12) AND ($13::text IS NULL OR team_id = $13)
                AND ($14::text IS NULL OR customer_id = $14) AND ($15::text IS NULL OR customer_phone = $15)
                AND ($16::text IS NULL OR order_id = $16) AND ($17::text IS NULL OR external_id = $17)
                AND ($18::timestamptz IS NULL OR created_at >= $18) AND ($19::timestamptz IS NULL OR created_at < $19)
            ORDER BY created_at DESC, id DESC
            LIMIT $7
        ) looked
    ) judged
    WHERE wanted OR edge
    ORDER BY created_at DESC, id DESC
    LIMIT $6
) c
JOIN app_user u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
ORDER BY c.created_at DESC, c.id DESC
LIMIT $6;

-- name: lately
-- The call to a number by anybody but this agent that goes on, or else that ended last, no longer than $4 ago. One
-- that failed or was cancelled before anything was dialled reached nobody. Found by call_customer_phone: no call goes
-- on for a day, and those of one number within a day are few.
SELECT u.name AS user_name, c.created_at, c.status, c.outcome
FROM call c
JOIN app_user u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
WHERE c.tenant_id = $1 AND c.customer_phone = $2 AND c.created_at > now() - $4::interval - interval '1 day'
    AND ($3::text IS NULL OR c.user_id <> $3)
    AND (c.ended_at IS NULL OR c.ended_at > now() - $4::interval)
    AND (c.dialing_at IS NOT NULL OR c.outcome IS NULL OR c.outcome NOT IN ('failed', 'cancelled'))
ORDER BY c.ended_at DESC NULLS FIRST, c.created_at DESC
LIMIT 1;

-- name: count
-- How many calls within reach are wanted, counted no further than $5.
SELECT count(*)
FROM (
    SELECT
    FROM call
    WHERE tenant_id = $1
        AND ($2::text IS NULL OR user_id = $2) AND ($3::text[] IS NULL OR team_id = ANY ($3) OR user_id = $4)
        AND ($6::text[] IS NULL OR outcome = ANY ($6)) AND ($7::text IS NULL OR call_method = $7)
        AND ($8::text IS NULL OR device_id = $8) AND ($9::text IS NULL OR status = $9)
        AND ($10::text IS NULL OR user_id = $10) AND ($11::text IS NULL OR team_id = $11)
        AND ($12::text IS NULL OR customer_id = $12) AND ($13::text IS NULL OR customer_phone = $13)
        AND ($14::text IS NULL OR order_id = $14) AND ($15::text IS NULL OR external_id = $15)
        AND ($16::timestamptz IS NULL OR created_at >= $16) AND ($17::timestamptz IS NULL OR created_at < $17)
        AND ($18::text[] IS NULL OR coalesce(
            recording_status, CASE WHEN record AND has_recording THEN 'awaited' ELSE 'none' END) = ANY ($18))
    LIMIT $5
) found;

-- name: settled
-- The moment before which nothing can change any more: no transaction that began before it is still open. One that has
-- been open for a minute is no request of ours (those are cut at 30 s), and is not waited for.
SELECT least(now(), min(xact_start)) - make_interval(secs => $1::float8)
FROM pg_stat_activity
WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()
    AND xact_start > now() - interval '1 minute';

-- name: changed
-- Calls within reach in the order of their last change, from a place on, as far as that order is settled.
SELECT c.*, u.name AS user_name
FROM (
    SELECT *,
        ($2::text IS NULL OR user_id = $2) AND ($3::text[] IS NULL OR team_id = ANY ($3) OR user_id = $4)
            AND ($9::text[] IS NULL OR outcome = ANY ($9)) AND ($10::text IS NULL OR call_method = $10)
            AND ($11::text IS NULL OR device_id = $11) AND ($12::text IS NULL OR status = $12)
            AND ($13::text IS NULL OR user_id = $13) AND ($14::text IS NULL OR team_id = $14)
            AND ($15::text IS NULL OR customer_id = $15) AND ($16::text IS NULL OR customer_phone = $16)
            AND ($17::text IS NULL OR order_id = $17) AND ($18::text IS NULL OR external_id = $18)
            AND ($19::timestamptz IS NULL OR created_at >= $19) AND ($20::timestamptz IS NULL OR created_at < $20)
            AND ($21::text[] IS NULL OR coalesce(
                recording_status, CASE WHEN record AND has_recording THEN 'awaited' ELSE 'none' END) = ANY ($21)) AS wanted,
        row_number() OVER (ORDER BY updated_at, id) = $8 AS edge
    FROM (
        SELECT *
        FROM call
        WHERE tenant_id = $1 AND (updated_at, id) > ($5, $6) AND updated_at < $22
        ORDER BY updated_at, id
        LIMIT $8
    ) looked
) c
JOIN app_user u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
WHERE wanted OR edge
ORDER BY c.updated_at, c.id
LIMIT $7;

-- name: due
-- Calls within reach whose next follow-up is due and not made, the longest due first.
SELECT c.*, u.name AS user_name
FROM (
    SELECT *, $3::text[] IS NULL OR team_id = ANY ($3) OR user_id = $4 AS wanted,
        row_number() OVER (ORDER BY follow_up_next_at, id) = $8 AS edge
    FROM (
        SELECT *
        FROM call
        WHERE tenant_id = $1
            AND ($2::text IS NULL OR user_id = $2) AND ($9::text IS NULL OR user_id = $9)
            AND follow_up_next_at IS NOT NULL AND follow_up_done_at IS NULL
            AND ($5::timestamptz IS NULL OR (follow_up_next_at, id) > ($5, $6))
            AND follow_up_next_at <= coalesce($10, now())
        ORDER BY follow_up_next_at, id
        LIMIT $8
    ) looked
) c
JOIN app_user u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
WHERE wanted OR edge
ORDER BY c.follow_up_next_at, c.id
LIMIT $7;

-- name: unrecorded
-- Calls within reach that ended without a record of the agent, the last ended first.
SELECT c.*, u.name AS user_name
FROM (
    SELECT *, $3::text[] IS NULL OR team_id = ANY ($3) OR user_id = $4 AS wanted,
        row_number() OVER (ORDER BY ended_at DESC, id DESC) = $8 AS edge
    FROM (
        SELECT *
        FROM call
        WHERE tenant_id = $1
            AND ($2::text IS NULL OR user_id = $2) AND ($9::text IS NULL OR user_id = $9)
            AND ended_at IS NOT NULL AND followed_up_at IS NULL
            AND ($5::timestamptz IS NULL OR (ended_at, id) < ($5, $6))
        ORDER BY ended_at DESC, id DESC
        LIMIT $8
    ) looked
) c
JOIN app_user u ON u.tenant_id = c.tenant_id AND u.id = c.user_id
WHERE wanted OR edge
ORDER BY c.ended_at DESC, c.id DESC
LIMIT $7;

-- name: follow_up
-- Replace the agent's record of a call within reach.
UPDATE call
SET follow_up_result = $6, follow_up_intention = $7, follow_up_note = $8, follow_up_next_at = $9, follow_up_done_at = NULL,
    followed_up_at = now(), followed_up_by = $10, updated_at = now()
WHERE tenant_id = $1 AND id = $5
    AND ($2::text IS NULL OR user_id = $2) AND ($3::text[] IS NULL OR team_id = ANY ($3) OR user_id = $4)
RETURNING user_id, customer_id, customer_phone, created_at;

-- name: complete_earlier
-- The agent's open follow-ups on earlier calls to the same customer are done. Everybody locks the newest call first.
UPDATE call
SET follow_up_done_at = now(), updated_at = now()
WHERE tenant_id = $1 AND id = ANY (ARRAY(
    SELECT id
    FROM call
    WHERE tenant_id = $1 AND user_id = $2 AND (created_at, id) < ($3, $4)
        AND follow_up_next_at IS NOT NULL AND follow_up_done_at IS NULL
        AND (customer_phone = $5 OR customer_id = $6)
    ORDER BY created_at DESC, id DESC
    FOR NO KEY UPDATE
));

-- name: complete
-- The follow-up planned on a call within reach is done; the first time it was said counts.
UPDATE call
SET follow_up_done_at = coalesce(follow_up_done_at, now()),
    updated_at = CASE WHEN follow_up_done_at IS NULL THEN now() ELSE updated_at END
WHERE tenant_id = $1 AND id = $5 AND follow_up_next_at IS NOT NULL
    AND ($2::text IS NULL OR user_id = $2) AND ($3::text[] IS NULL OR team_id = ANY ($3) OR user_id = $4)
RETURNING id;

-- name: statistics
-- Calls within reach made on these days, counted by what is asked for. An answer is proven where the end of the call or
-- the answer itself was told on better grounds than $6.
SELECT n.*, u.name AS user_name, t.name AS team_name
FROM (
    SELECT
        CASE WHEN 'day' = ANY ($7::text[]) THEN (c.created_at AT TIME ZONE $5::text)::date END AS day,
        CASE WHEN 'agent' = ANY ($7) THEN c.user_id END AS user_id,
        CASE WHEN 'team' = ANY ($7) THEN c.team_id END AS team_id,
        CASE WHEN 'line' = ANY ($7) THEN c.line_id END AS line_id,
        CASE WHEN 'method' = ANY ($7) THEN c.call_method END AS call_method,
        count(*) AS calls,
        count(c.ended_at) AS finished,
        count(*) FILTER (WHERE c.outcome = 'connected' AND p.proven) AS connected,
        count(*) FILTER (WHERE c.outcome = 'connected' AND NOT p.proven) AS connected_assumed,
        count(*) FILTER (WHERE c.outcome = 'unknown') AS unknown,
        coalesce(sum(c.duration) FILTER (WHERE c.outcome = 'connected' AND p.proven), 0) AS talk_seconds,
        coalesce(sum(c.duration) FILTER (WHERE c.outcome = 'connected' AND NOT p.proven), 0) AS talk_seconds_assumed,
        count(c.duration) FILTER (WHERE c.outcome = 'connected' AND p.proven) AS timed
    FROM call c
    CROSS JOIN LATERAL (
        SELECT coalesce(c.evidence <> ALL ($6::text[]) OR c.connected_evidence <> ALL ($6), false) AS proven
    ) p
    WHERE c.tenant_id = $1
        AND ($2::text IS NULL OR c.user_id = $2) AND ($3::text[] IS NULL OR c.team_id = ANY ($3) OR c.user_id = $4)
        AND c.created_at >= $8::date::timestamp AT TIME ZONE $5
        AND c.created_at < ($9::date + 1)::timestamp AT TIME ZONE $5
        AND ($10::text IS NULL OR c.user_id = $10) AND ($11::text IS NULL OR c.team_id = $11)
        AND ($12::text IS NULL OR c.call_method = $12)
    GROUP BY 1, 2, 3, 4, 5
    LIMIT $13
) n
LEFT JOIN app_user u ON u.tenant_id = $1 AND u.id = n.user_id
LEFT JOIN team t ON t.tenant_id = $1 AND t.id = n.team_id;
