-- name: record
-- Write one line, in the transaction of the change it tells of.
INSERT INTO audit_log (tenant_id, actor_kind, actor_id, action, resource, resource_id, before, after, reason, ip, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10::text::inet, $11);

-- name: of_tenant
-- The lines of a tenant before a line, newest first.
SELECT id, actor_kind, actor_id, action, resource, resource_id, before, after, reason, host(ip) AS ip, request_id, at
FROM audit_log
WHERE tenant_id = $1 AND ($2::bigint IS NULL OR id < $2)
    AND ($3::text IS NULL OR resource = $3) AND ($4::text IS NULL OR resource_id = $4)
    AND ($5::text IS NULL OR actor_id = $5) AND ($6::text IS NULL OR action = $6)
ORDER BY id DESC
LIMIT $7;

-- name: of_installation
-- The lines of no tenant, such as system admins' sign-ins, before a line, newest first.
SELECT id, actor_kind, actor_id, action, resource, resource_id, before, after, reason, host(ip) AS ip, request_id, at
FROM audit_log
WHERE tenant_id IS NULL AND ($1::bigint IS NULL OR id < $1)
    AND ($2::text IS NULL OR resource = $2) AND ($3::text IS NULL OR resource_id = $3)
    AND ($4::text IS NULL OR actor_id = $4) AND ($5::text IS NULL OR action = $5)
ORDER BY id DESC
LIMIT $6;
