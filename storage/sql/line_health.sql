-- name: failed
-- Count a failure of a line in service, and take it out of service after $4 in a row; the first probe comes after $5 seconds.
UPDATE call_line
SET failures = failures + 1, health_reason = $3,
    health = CASE WHEN failures + 1 >= $4 THEN 'suspended' ELSE health END,
    health_at = CASE WHEN failures + 1 >= $4 THEN now() ELSE health_at END,
    probe_at = CASE WHEN failures + 1 >= $4 THEN now() + make_interval(secs => $5::float8) END
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND health = 'ok'
RETURNING health, failures;

-- name: ails
-- Whether a line that is not frozen has failed since it last worked.
SELECT EXISTS (
    SELECT FROM call_line WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND health <> 'frozen' AND failures > 0
);

-- name: placed
-- The line works, so failures are no longer in a row; says how it did before.
UPDATE call_line l
SET health = 'ok', failures = 0, probe_at = NULL, health_reason = NULL,
    health_at = CASE WHEN l.health = 'ok' THEN l.health_at ELSE now() END
FROM (
    SELECT id, health FROM call_line
    WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND health <> 'frozen' AND failures > 0
    FOR NO KEY UPDATE
) was
WHERE l.tenant_id = $1 AND l.id = was.id
RETURNING was.health;

-- name: due
-- Claim, in the whole installation, suspended lines that are to be probed.
UPDATE call_line l SET probe_at = now() + make_interval(secs => $1::float8)
FROM (
    SELECT id FROM call_line
    WHERE probe_at <= now() AND health = 'suspended' AND deleted_at IS NULL
    ORDER BY probe_at LIMIT $2 FOR NO KEY UPDATE SKIP LOCKED
) ripe
WHERE l.id = ripe.id
RETURNING l.tenant_id, l.id AS line_id, l.failures;

-- name: probe_failed
-- A probe of a suspended line failed, after $3 failures: the next comes after $6 seconds, and none after $5 failures.
UPDATE call_line
SET failures = failures + 1, health_reason = $4,
    health = CASE WHEN failures + 1 >= $5 THEN 'frozen' ELSE health END,
    health_at = CASE WHEN failures + 1 >= $5 THEN now() ELSE health_at END,
    probe_at = CASE WHEN failures + 1 >= $5 THEN NULL ELSE now() + make_interval(secs => $6::float8) END
WHERE tenant_id = $1 AND id = $2 AND deleted_at IS NULL AND health = 'suspended' AND failures = $3
RETURNING health;
