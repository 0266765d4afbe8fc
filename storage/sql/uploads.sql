-- name: add
-- An upload has begun.
INSERT INTO recording_upload (
    id, tenant_id, call_id, source, actor_id, place, object_key, store_upload_id, media_type, size, sha256, key_id, salt, expires_at
)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, now() + make_interval(secs => $14::float8))
RETURNING expires_at;

-- name: get
-- An upload of whoever began it.
SELECT * FROM recording_upload WHERE tenant_id = $1 AND id = $2 AND actor_id = $3 AND expires_at > now();

-- name: begun_by
-- The open upload in parts of the same file by the same actor, if it lies within reach: one that was cut goes on with it.
SELECT * FROM recording_upload
WHERE tenant_id = $1 AND call_id = $2 AND actor_id = $3 AND size = $4 AND sha256 = $5 AND place = ANY ($6::text[])
    AND expires_at > now() + interval '1 minute'
ORDER BY created_at DESC LIMIT 1;

-- name: forget
-- An upload is over.
DELETE FROM recording_upload WHERE tenant_id = $1 AND id = $2;

-- name: expired
-- Claim, in the whole installation, uploads that nobody goes on with; those being stored are settled elsewhere.
UPDATE recording_upload u
SET expires_at = now() + make_interval(secs => $1::float8)
FROM (
    SELECT id FROM recording_upload x
    WHERE expires_at <= now() AND place = ANY ($2::text[])
        AND NOT EXISTS (
            SELECT FROM recording r
            WHERE r.tenant_id = x.tenant_id AND r.call_id = x.call_id AND r.store_upload_id = x.store_upload_id AND r.state = 'storing'
        )
    ORDER BY expires_at LIMIT $3
    FOR UPDATE SKIP LOCKED
) due
WHERE u.id = due.id
RETURNING u.*;

-- name: known
-- Which of these uploads of a store are known here, in the whole installation.
SELECT store_upload_id FROM recording_upload WHERE store_upload_id = ANY ($1::text[])
UNION
SELECT store_upload_id FROM recording WHERE store_upload_id = ANY ($1::text[]) AND state = 'storing';

-- name: bring_part
-- What an encrypted part brings: the digest of what it first brought.
INSERT INTO recording_part (tenant_id, upload_id, number, sha256)
SELECT u.tenant_id, u.id, $3, $4 FROM recording_upload u WHERE u.tenant_id = $1 AND u.id = $2
ON CONFLICT (upload_id, number) DO UPDATE SET number = excluded.number
RETURNING sha256;
