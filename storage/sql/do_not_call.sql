-- name: is_listed
-- Whether this number is not to be called now; a dial on a phone asks the same where it is committed (calls.sql).
SELECT EXISTS (
    SELECT FROM do_not_call WHERE tenant_id = $1 AND phone = $2 AND (expires_at IS NULL OR expires_at > now())
);

-- name: listed
-- Which of these numbers are not to be called now, and by which entry.
SELECT phone, id FROM do_not_call
WHERE tenant_id = $1 AND phone = ANY ($2::text[]) AND (expires_at IS NULL OR expires_at > now());

-- name: number_of_call
-- The number that a call was made to, if the call is within reach.
SELECT customer_phone FROM call
WHERE tenant_id = $1 AND id = $2 AND ($3::text IS NULL OR user_id = $3)
    AND ($4::text[] IS NULL OR team_id = ANY ($4) OR user_id = $5);

-- name: add
-- Enter numbers, each named once. One that stands already is kept at least as long as either says: to be entered again
-- never shortens it. One that has run out is entered anew.
INSERT INTO do_not_call AS old (id, tenant_id, phone, reason, source, created_by, expires_at)
SELECT new.id, $1, new.phone, new.reason, $3, $4, new.expires_at
FROM json_to_recordset($2::text::json) AS new (id text, phone text, reason text, expires_at timestamptz)
ON CONFLICT (tenant_id, phone) DO UPDATE
SET id = CASE WHEN old.expires_at <= now() THEN excluded.id ELSE old.id END,
    reason = CASE WHEN old.expires_at <= now() OR excluded.reason <> '' THEN excluded.reason ELSE old.reason END,
    source = CASE WHEN old.expires_at <= now() THEN excluded.source ELSE old.source END,
    created_by = CASE WHEN old.expires_at <= now() THEN excluded.created_by ELSE old.created_by END,
    created_at = CASE WHEN old.expires_at <= now() THEN now() ELSE old.created_at END,
    expires_at = CASE
        WHEN old.expires_at <= now() THEN excluded.expires_at
        WHEN old.expires_at IS NULL OR excluded.expires_at IS NULL THEN NULL
        ELSE greatest(old.expires_at, excluded.expires_at)
    END
RETURNING id, phone, reason, source, created_by, created_at, expires_at;

-- name: entries
-- Numbers that are not to be called now, the last entered first; ids sort by the time they were made.
SELECT id, phone, reason, source, created_by, created_at, expires_at FROM do_not_call
WHERE tenant_id = $1 AND ($2::text IS NULL OR id < $2) AND (expires_at IS NULL OR expires_at > now())
ORDER BY id DESC
LIMIT $3;

-- name: lift
-- The number may be called again.
DELETE FROM do_not_call
WHERE tenant_id = $1 AND id = $2
RETURNING id, phone, reason, source, created_by, created_at, expires_at;
