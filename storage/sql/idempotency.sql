-- name: fetch
-- The answer kept for a key, with the digest of the request that got it.
SELECT request_sha256, answer
FROM idempotency_key
WHERE tenant_id = $1 AND actor_id = $2 AND operation = $3 AND key = $4;

-- name: keep
-- Keep the answer in the creating transaction; a key that is there already refuses the whole transaction.
INSERT INTO idempotency_key (tenant_id, actor_id, operation, key, request_sha256, answer)
VALUES ($1, $2, $3, $4, $5, $6);

-- name: expire
-- Drop a batch of keys older than a day.
DELETE FROM idempotency_key
WHERE ctid = ANY (ARRAY(SELECT ctid FROM idempotency_key WHERE created_at < now() - interval '24 hours' ORDER BY created_at LIMIT 5000));
