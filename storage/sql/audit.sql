-- name: record
-- Write one line, in the transaction of the change it tells of.
INSERT INTO audit_log (tenant_id, actor_kind, actor_id, action, resource, resource_id, before, after, reason, ip, request_id)
VALUES ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8::text::jsonb, $9, $10::text::inet, $11);
