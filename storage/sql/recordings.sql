-- name: for_upload
-- What decides whether a call's recording may come in, and where it belongs: the day is the tenant's.
SELECT c.id AS call_id, c.tenant_id, c.user_id, c.device_id, c.record, (c.created_at AT TIME ZONE t.timezone)::date AS day,
    r.state, r.size, r.sha256,
    (SELECT count(*) FROM call_event e WHERE e.call_id = c.id AND e.kind = 'RECORDING_WITHDRAWN')::integer AS withdrawn,
    (SELECT count(*) FROM recording_upload u WHERE u.tenant_id = c.tenant_id AND u.call_id = c.id AND u.expires_at > now())::integer AS open_uploads
FROM call c
JOIN tenant t ON t.id = c.tenant_id
LEFT JOIN recording r ON r.tenant_id = c.tenant_id AND r.call_id = c.id
WHERE c.tenant_id = $1 AND c.id = $2
    AND ($3::text IS NULL OR c.user_id = $3) AND ($4::text[] IS NULL OR c.team_id = ANY ($4) OR c.user_id = $5);

-- name: hold_place
-- The gate: only one upload of a call may complete its object. No row means that another stands there.
INSERT INTO recording (
    call_id, tenant_id, source, actor_id, place, object_key, store_upload_id, media_type, key_id, salt, size, sha256, settle_at
)
SELECT call_id, tenant_id, source, actor_id, place, object_key, store_upload_id, media_type, key_id, salt, $3, $4,
    now() + make_interval(secs => $5::float8)
FROM recording_upload
WHERE tenant_id = $1 AND id = $2
ON CONFLICT (call_id) DO NOTHING
RETURNING call_id;

-- name: state
-- Where the recording of a call stands.
SELECT state, size, sha256, store_upload_id FROM recording WHERE tenant_id = $1 AND call_id = $2;

-- name: finish
-- The object is there, whole: say so in the recording, the call and its history, and tell the agent, in this order of
-- locks. No row means that the recording is no longer this upload's to finish. An upload in parts is kept until it
-- expires, so that whoever missed the answer may ask for it again.
WITH stored AS (
    UPDATE recording SET state = 'stored', stored_at = now(), settle_at = NULL, next_read_at = now()
    WHERE tenant_id = $1 AND call_id = $2 AND store_upload_id = $3 AND state = 'storing'
    RETURNING call_id, size, source
),
finished AS (
    DELETE FROM recording_upload u USING stored
    WHERE u.tenant_id = $1 AND u.call_id = $2 AND u.store_upload_id = $3 AND u.size IS NULL
),
fetched AS (
    DELETE FROM recording_fetch f USING stored WHERE f.tenant_id = $1 AND f.call_id = $2
),
told AS (
    UPDATE call c
    SET version = version + 1, has_recording = true, recording_size = s.size, recording_status = 'ready', updated_at = now()
    FROM stored s
    WHERE c.tenant_id = $1 AND c.id = s.call_id
    RETURNING c.id, c.user_id, tell_hooks('recording.ready', c)
),
noted AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
    SELECT id, $1, $6, 'RECORDING_STORED', 'enriched', $7::text::json FROM told
)
SELECT t.user_id, emit(t.user_id, $4, $5::text::json) AS seq,
    ARRAY(SELECT n.node FROM agent_node n WHERE n.user_id = t.user_id) AS nodes
FROM told t;

-- name: withdraw
-- The upload came to nothing: the call has no recording, and may get one, under another key. Nobody may go on with an
-- upload in parts that the store has no more.
WITH withdrawn AS (
    DELETE FROM recording WHERE tenant_id = $1 AND call_id = $2 AND store_upload_id = $3 AND state = 'storing'
    RETURNING call_id
),
noted AS (
    INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
    SELECT call_id, $1, 'server', 'RECORDING_WITHDRAWN', 'none', '{}' FROM withdrawn
)
DELETE FROM recording_upload u USING withdrawn w
WHERE u.tenant_id = $1 AND u.call_id = w.call_id AND u.store_upload_id = $3;

-- name: unsettled
-- Claim, in the whole installation, uploads whose storing did not end in time.
UPDATE recording r
SET settle_at = now() + make_interval(secs => $1::float8)
FROM (
    SELECT call_id FROM recording
    WHERE settle_at <= now() AND state = 'storing' AND place = ANY ($2::text[])
    ORDER BY settle_at LIMIT $3
    FOR UPDATE SKIP LOCKED
) due
WHERE r.call_id = due.call_id
RETURNING r.*;

-- name: to_drop
-- Claim, in the whole installation, recordings that leave: those that somebody deleted before those that are too old.
UPDATE recording r
SET settle_at = now() + make_interval(secs => $1::float8)
FROM (
    SELECT call_id FROM recording
    WHERE settle_at <= now() AND state = 'leaving' AND place = ANY ($2::text[])
    ORDER BY leaving_as, settle_at LIMIT $3
    FOR UPDATE SKIP LOCKED
) due
WHERE r.call_id = due.call_id
RETURNING r.*;

-- name: to_move
-- Claim, in the whole installation, recordings that lie in this folder and belong into the bucket.
UPDATE recording r
SET settle_at = now() + make_interval(secs => $2::float8)
FROM (
    SELECT call_id FROM recording
    WHERE place = $1 AND state = 'stored' AND (settle_at IS NULL OR settle_at <= now())
    ORDER BY stored_at LIMIT $3
    FOR UPDATE SKIP LOCKED
) due
WHERE r.call_id = due.call_id
RETURNING r.*;

-- name: moving
-- A copy begins; no row means that the recording has left meanwhile.
UPDATE recording SET move_upload_id = $4
WHERE tenant_id = $1 AND call_id = $2 AND place = $3 AND state = 'stored'
RETURNING call_id;

-- name: moved
-- The bytes rest in the bucket now. No row means that the recording has left meanwhile.
UPDATE recording SET place = 's3', settle_at = NULL, move_upload_id = NULL
WHERE tenant_id = $1 AND call_id = $2 AND place = $3 AND state = 'stored'
RETURNING call_id;

-- name: expire
-- Let the recordings leave, in the whole installation, that are older than their tenants keep them and not held.
WITH leaving AS (
    UPDATE recording r
    SET state = 'leaving', leaving_as = 'expired', settle_at = now(), next_read_at = NULL
    FROM (
        SELECT due.call_id FROM tenant t
        CROSS JOIN LATERAL (
            SELECT x.call_id FROM recording x
            WHERE x.tenant_id = t.id AND x.state = 'stored' AND x.held_at IS NULL
                AND x.stored_at < now() - make_interval(days => t.recording_days)
            ORDER BY x.stored_at LIMIT $1
            FOR UPDATE SKIP LOCKED
        ) due
        LIMIT $1
    ) old
    WHERE r.call_id = old.call_id
    RETURNING r.call_id, r.tenant_id
)
UPDATE call c SET version = version + 1, recording_status = 'expired', updated_at = now()
FROM leaving l WHERE c.tenant_id = l.tenant_id AND c.id = l.call_id
RETURNING c.id, tell_hooks('recording.expired', c);

-- name: remove
-- Let a recording leave for good: from here on it cannot be heard, and the call says so.
WITH leaving AS (
    UPDATE recording
    SET state = 'leaving', leaving_as = 'deleted', settle_at = now(), next_read_at = NULL
    WHERE tenant_id = $1 AND call_id = $2 AND state = 'stored' AND held_at IS NULL
    RETURNING call_id
)
UPDATE call c SET version = version + 1, recording_status = 'deleted', updated_at = now()
FROM leaving l WHERE c.tenant_id = $1 AND c.id = l.call_id
RETURNING c.id, tell_hooks('recording.deleted', c);

-- name: forbid
-- A recording that has not come yet never shall: no row where one stands.
UPDATE call c SET version = version + 1, record = false, recording_status = 'deleted', updated_at = now()
WHERE c.tenant_id = $1 AND c.id = $2 AND NOT EXISTS (SELECT FROM recording r WHERE r.tenant_id = $1 AND r.call_id = $2)
RETURNING c.id, tell_hooks('recording.deleted', c);

-- name: left
-- The bytes are gone: what is left is that there was a recording.
WITH gone AS (
    UPDATE recording
    SET state = leaving_as, left_at = now(), settle_at = NULL, move_upload_id = NULL, peaks = NULL
    WHERE tenant_id = $1 AND call_id = $2 AND state = 'leaving'
    RETURNING call_id, leaving_as
)
INSERT INTO call_event (call_id, tenant_id, source, kind, effect, data)
SELECT g.call_id, $1, 'server', 'RECORDING_' || upper(g.leaving_as), 'enriched', '{}' FROM gone g;

-- name: get
-- The recording of a call within reach; a call without one has a row of NULLs.
SELECT r.*, c.id AS of_call
FROM call c
LEFT JOIN recording r ON r.tenant_id = c.tenant_id AND r.call_id = c.id
WHERE c.tenant_id = $1 AND c.id = $5
    AND ($2::text IS NULL OR c.user_id = $2) AND ($3::text[] IS NULL OR c.team_id = ANY ($3) OR c.user_id = $4);

-- name: lock
-- The recording of a call, which nobody else changes before this transaction ends.
SELECT * FROM recording WHERE tenant_id = $1 AND call_id = $2 FOR NO KEY UPDATE;

-- name: hold
-- Keep a recording whatever its age, or keep it no longer.
UPDATE recording
SET held_at = CASE WHEN $3 THEN coalesce(held_at, now()) END, hold_reason = CASE WHEN $3 THEN $4::text END
WHERE tenant_id = $1 AND call_id = $2;

-- name: unread
-- Claim, in the whole installation, recordings of which nobody has read yet what audio they are.
UPDATE recording r
SET next_read_at = now() + make_interval(secs => $2::float8)
FROM (
    SELECT call_id FROM recording
    WHERE next_read_at <= now() AND state = 'stored' AND place = ANY ($1::text[])
    ORDER BY next_read_at LIMIT $3
    FOR UPDATE SKIP LOCKED
) due
WHERE r.call_id = due.call_id
RETURNING r.*;

-- name: read
-- Keep what audio a recording is.
UPDATE recording
SET read_at = now(), next_read_at = NULL, unreadable = NULL, duration_ms = $3, codec = $4, sample_rate = $5, channels = $6, peaks = $7
WHERE tenant_id = $1 AND call_id = $2 AND state = 'stored';

-- name: unreadable
-- Nobody can tell what audio a recording is; it is kept all the same.
UPDATE recording SET next_read_at = NULL, unreadable = $3
WHERE tenant_id = $1 AND call_id = $2 AND state = 'stored';

-- name: kept
-- Every recording whose bytes should be there, in the whole installation or of one tenant, by call.
SELECT * FROM recording
WHERE ($1::text IS NULL OR tenant_id = $1) AND state IN ('storing', 'stored', 'leaving') AND call_id > $2
ORDER BY call_id LIMIT $3;

-- name: owner_of
-- Which of these keys belong to a recording whose bytes should be there, and where it rests.
SELECT object_key, place FROM recording WHERE object_key = ANY ($1::text[]) AND state IN ('storing', 'stored', 'leaving');

-- name: left_behind
-- Which of these keys belong to a recording that rests in the bucket, or is gone.
SELECT object_key FROM recording
WHERE object_key = ANY ($1::text[]) AND (place = 's3' OR state IN ('expired', 'deleted'));
