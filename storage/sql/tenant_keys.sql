-- name: newest
-- The key of a tenant that seals what is new.
SELECT id, sealed FROM tenant_key WHERE tenant_id = $1 ORDER BY id DESC LIMIT 1;

-- name: fetch
-- A key of a tenant, by its id.
SELECT sealed FROM tenant_key WHERE tenant_id = $1 AND id = $2;

-- name: add
-- Give a tenant a key, unless it has one of that id already.
INSERT INTO tenant_key (tenant_id, id, sealed) VALUES ($1, $2, $3) ON CONFLICT DO NOTHING;

-- name: after
-- The next keys of the whole installation, in order. No tenant is named: a master key is changed for all of them.
SELECT tenant_id, id, sealed
FROM tenant_key
WHERE (tenant_id, id) > ($1, $2)
ORDER BY tenant_id, id
LIMIT $3;

-- name: reseal
-- Keep these keys of any tenants under another seal.
UPDATE tenant_key k
SET sealed = r.sealed
FROM unnest($1::text[], $2::integer[], $3::bytea[]) AS r (tenant_id, id, sealed)
WHERE k.tenant_id = r.tenant_id AND k.id = r.id;
