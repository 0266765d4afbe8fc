-- name: tenant_by_code
-- A tenant by the code people know it by.
SELECT id FROM tenant WHERE code = $1;

-- name: user_by_name
-- A user of the installation by its user name.
SELECT id, tenant_id FROM app_user WHERE lower(username) = lower($1);

-- name: set_password
-- Give a user a password that need not be changed; for the demo only.
UPDATE app_user SET password_hash = $2, must_change_password = false, failed_logins = 0, locked_until = NULL
WHERE lower(username) = lower($1);
