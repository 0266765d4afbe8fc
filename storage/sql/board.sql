-- name: agents
-- The agents within reach, and who else is at a call within reach: those at a call first, then those with a page open. Beside
-- each row stands how many there are in each state; more is looked up of the $6 agents that are told only. An agent has a
-- row for each live call within reach: agents move between teams, and a call stays where it was begun.
SELECT a.*, l.id AS call_id, l.status, l.call_method, l.customer_name, l.customer_phone, l.created_at, l.connected_at,
    (SELECT min(n.since) FROM agent_node n WHERE n.user_id = a.id) AS present_since,
    (
        SELECT CASE WHEN bool_or(d.online_status = 'online') THEN 'online' ELSE 'offline' END
        FROM device d
        WHERE d.tenant_id = $1 AND d.user_id = a.id AND d.unbound_at IS NULL
        HAVING count(*) > 0
    ) AS phone
FROM (
    SELECT *,
        count(*) FILTER (WHERE state = 'talking') OVER () AS talking, count(*) FILTER (WHERE state = 'calling') OVER () AS calling,
        count(*) FILTER (WHERE state = 'idle') OVER () AS idle, count(*) FILTER (WHERE state = 'offline') OVER () AS offline
    FROM (
        SELECT u.id, u.name, u.team_id, t.name AS team_name, live.talking_since, live.calling_since,
            CASE
                WHEN live.talks THEN 'talking'
                WHEN live.user_id IS NOT NULL THEN 'calling'
                WHEN EXISTS (SELECT FROM agent_node n WHERE n.user_id = u.id) THEN 'idle'
                ELSE 'offline'
            END AS state
        FROM app_user u
        JOIN role r ON r.code = u.role
        LEFT JOIN team t ON t.tenant_id = u.tenant_id AND t.id = u.team_id
        LEFT JOIN (
            SELECT user_id, bool_or(status = 'connected') AS talks, bool_or(team_id = ANY ($3)) AS reached,
                max(connected_at) FILTER (WHERE status = 'connected') AS talking_since, max(created_at) AS calling_since
            FROM call
            WHERE tenant_id = $1 AND status <> 'ended'
            GROUP BY user_id
        ) live ON live.user_id = u.id
        WHERE u.tenant_id = $1 AND (r.reach = 'own' AND u.disabled_at IS NULL OR live.user_id IS NOT NULL)
            AND ($2::text IS NULL OR u.id = $2)
            AND ($3::text[] IS NULL OR u.team_id = ANY ($3) OR u.id = $4 OR live.reached)
            AND ($5::text IS NULL OR u.team_id = $5)
    ) seen
    ORDER BY array_position('{talking,calling,idle,offline}'::text[], state), name, id
    LIMIT $6
) a
LEFT JOIN call l ON l.tenant_id = $1 AND l.user_id = a.id AND l.status <> 'ended'
    AND ($3::text[] IS NULL OR l.team_id = ANY ($3) OR l.user_id = $4)
ORDER BY a.name, a.id, l.status = 'connected' DESC, l.created_at DESC;

-- name: today
-- The calls of a tenant's day, from hour $3 of it to before hour $4, by agent and team. An answer is proven where the end of
-- the call or the answer itself was told on better grounds than $2.
SELECT c.user_id, c.team_id, count(*) AS calls,
    count(*) FILTER (WHERE c.outcome = 'connected' AND p.proven) AS connected,
    count(*) FILTER (WHERE c.outcome = 'connected' AND NOT p.proven) AS connected_assumed,
    coalesce(sum(c.duration) FILTER (WHERE c.outcome = 'connected' AND p.proven), 0) AS talk_seconds,
    coalesce(sum(c.duration) FILTER (WHERE c.outcome = 'connected' AND NOT p.proven), 0) AS talk_seconds_assumed,
    max(c.ended_at) AS last_ended_at
FROM call c
CROSS JOIN LATERAL (
    SELECT coalesce(c.evidence <> ALL ($2::text[]) OR c.connected_evidence <> ALL ($2), false) AS proven
) p
WHERE c.tenant_id = $1
    AND c.created_at >= (
        SELECT date_trunc('day', now() AT TIME ZONE timezone) AT TIME ZONE timezone + make_interval(hours => $3::integer)
        FROM tenant WHERE id = $1)
    AND c.created_at < (
        SELECT date_trunc('day', now() AT TIME ZONE timezone) AT TIME ZONE timezone + make_interval(hours => $4::integer)
        FROM tenant WHERE id = $1)
GROUP BY c.user_id, c.team_id;
