-- name: want
-- A provider offers a recording; what is waiting already is fetched from the newest URL.
INSERT INTO recording_fetch (call_id, tenant_id, line_id, url, next_at, give_up_at)
SELECT c.id, c.tenant_id, $3, $4, now() + make_interval(secs => $5::float8), now() + make_interval(secs => $6::float8)
FROM call c
WHERE c.tenant_id = $1 AND c.id = $2 AND c.record
    AND NOT EXISTS (SELECT FROM recording r WHERE r.tenant_id = $1 AND r.call_id = $2 AND r.state <> 'storing')
ON CONFLICT (call_id) DO UPDATE
SET url = excluded.url, state = 'waiting', next_at = least(recording_fetch.next_at, excluded.next_at),
    give_up_at = greatest(recording_fetch.give_up_at, excluded.give_up_at), failure = NULL
RETURNING call_id;

-- name: due
-- Claim, in the whole installation, what is to be fetched now; who claims it has so many seconds.
UPDATE recording_fetch f
SET next_at = now() + make_interval(secs => $1::float8), tries = tries + 1
FROM (
    SELECT call_id FROM recording_fetch WHERE state = 'waiting' AND next_at <= now()
    ORDER BY next_at LIMIT $2
    FOR UPDATE SKIP LOCKED
) due
WHERE f.call_id = due.call_id
RETURNING f.call_id, f.tenant_id, f.line_id, f.url, f.tries, f.give_up_at <= now() AS last_try;

-- name: put_off
-- It did not go this time: try again in so many seconds.
UPDATE recording_fetch SET next_at = now() + make_interval(secs => $3::float8), failure = $4
WHERE tenant_id = $1 AND call_id = $2 AND state = 'waiting';

-- name: give_up
-- It will never go: the call shows that its recording failed, unless another URL was offered meanwhile. The URL, which
-- is a key, is not kept.
WITH failed AS (
    UPDATE recording_fetch SET state = 'failed', failure = $3, url = ''
    WHERE tenant_id = $1 AND call_id = $2 AND state = 'waiting' AND url = $4
    RETURNING call_id
),
told AS (
    UPDATE call c SET version = version + 1, recording_status = 'failed', updated_at = now()
    FROM failed f WHERE c.tenant_id = $1 AND c.id = f.call_id AND c.recording_status IS NULL
    RETURNING tell_hooks('recording.failed', c)
)
INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
SELECT call_id, $1, 'server', 'RECORDING_FAILED', 'enriched', json_build_object('reason', $3::text) FROM failed;

-- name: drop
-- There is nothing to fetch any more.
DELETE FROM recording_fetch WHERE tenant_id = $1 AND call_id = $2;

-- name: sealed_urls
-- The next URLs of the whole installation. No tenant is named: a master key is changed for all of them.
SELECT call_id, url FROM recording_fetch WHERE state = 'waiting' AND call_id > $1 ORDER BY call_id LIMIT $2;

-- name: reseal_urls
-- Keep URLs of any tenants under another seal, unless they were replaced meanwhile.
UPDATE recording_fetch f
SET url = r.now
FROM unnest($1::text[], $2::bytea[], $3::bytea[]) AS r (call_id, before, now)
WHERE f.call_id = r.call_id AND f.url = r.before
RETURNING f.call_id;
