-- name: region
-- Where the tenant's customers are called from.
SELECT region FROM tenant WHERE id = $1;

-- name: get
-- One customer, by our id or the CRM's.
SELECT * FROM customer WHERE tenant_id = $1 AND (id = $2 OR external_id = $2);

-- name: search
-- Customers of a tenant, the newest first; ids sort by the time they were made.
SELECT *
FROM customer
WHERE tenant_id = $1
    AND ($2::text IS NULL OR id < $2)
    AND ($4::text IS NULL OR phone = $4 OR external_id = $5)
    AND ($6::text IS NULL OR name ILIKE $6 OR external_id = $5)
    AND ($7::text IS NULL OR tags @> ARRAY[$7]) AND ($8::text IS NULL OR order_ids @> ARRAY[$8])
ORDER BY id DESC
LIMIT $3;

-- name: create
-- Make a customer.
INSERT INTO customer (id, tenant_id, external_id, name, phone, tags, order_ids)
VALUES ($2, $1, $3, $4, $5, $6, $7)
RETURNING *;

-- name: upsert
-- Make the CRM's customer, or replace what is known of it.
INSERT INTO customer (id, tenant_id, external_id, name, phone, tags, order_ids)
VALUES ($2, $1, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id, external_id) DO UPDATE
SET name = excluded.name, phone = excluded.phone, tags = excluded.tags, order_ids = excluded.order_ids, updated_at = now()
RETURNING *;

-- name: update
-- Replace what is known of a customer, by our id or the CRM's; a number that is not told stays.
UPDATE customer
SET name = $3, phone = coalesce($4, phone), tags = $5, order_ids = $6, updated_at = now()
WHERE tenant_id = $1 AND (id = $2 OR external_id = $2)
RETURNING *;

-- name: delete
-- Forget a customer, by our id or the CRM's; calls keep what they say.
DELETE FROM customer WHERE tenant_id = $1 AND (id = $2 OR external_id = $2)
RETURNING id, external_id;

-- name: import
-- Make or replace many of the CRM's customers, and count what is new and what changed: a customer that was there keeps
-- its id. Everybody locks in the order of external ids.
WITH told AS (
    SELECT * FROM json_to_recordset($2::text::json)
        AS t (id text, external_id text, name text, phone text, tags text[], order_ids text[])
),
saved AS (
    INSERT INTO customer (id, tenant_id, external_id, name, phone, tags, order_ids)
    SELECT id, $1, external_id, name, phone, tags, order_ids FROM told ORDER BY external_id
    ON CONFLICT (tenant_id, external_id) DO UPDATE
    SET name = excluded.name, phone = excluded.phone, tags = excluded.tags, order_ids = excluded.order_ids,
        updated_at = now()
    WHERE (customer.name, customer.phone, customer.tags, customer.order_ids)
        IS DISTINCT FROM (excluded.name, excluded.phone, excluded.tags, excluded.order_ids)
    RETURNING id
)
SELECT count(t.id) AS created, count(*) - count(t.id) AS updated
FROM saved s LEFT JOIN told t ON t.id = s.id;

-- name: compare
-- Count what importing these would make and change.
SELECT count(*) FILTER (WHERE c.id IS NULL) AS created,
    count(*) FILTER (
        WHERE c.id IS NOT NULL
            AND (c.name, c.phone, c.tags, c.order_ids) IS DISTINCT FROM (t.name, t.phone, t.tags, t.order_ids)
    ) AS updated
FROM json_to_recordset($2::text::json)
    AS t (id text, external_id text, name text, phone text, tags text[], order_ids text[])
LEFT JOIN customer c ON c.tenant_id = $1 AND c.external_id = t.external_id;
