-- name: timezone
-- By which clock a tenant reads times.
SELECT timezone FROM tenant WHERE id = $1;

-- name: usernames
-- What some users are called when they sign in.
SELECT id, username FROM app_user WHERE tenant_id = $1 AND id = ANY ($2::text[]);

-- name: was_there
-- Whether a tenant has a line at Infinity, or had it.
SELECT EXISTS (SELECT FROM call_line WHERE tenant_id = $1 AND id = $2 AND provider = 'infinity');
