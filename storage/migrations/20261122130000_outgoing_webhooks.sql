-- migrate:up

-- Where a tenant wants to be told of what happens (docs/integrate-webhooks.md).
CREATE TABLE hook (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    url text NOT NULL,
    events text[] NOT NULL,
    description text NOT NULL,
    enabled boolean NOT NULL,
    reveal boolean NOT NULL,  -- customers' numbers unmasked
    -- what the machine found
    disabled_reason text CHECK (disabled_reason IN ('gone', 'failing')),  -- NULL while enabled, or where people disabled it
    disabled_at timestamptz,
    failing_since timestamptz,  -- since when there was nothing but failure
    not_before timestamptz,  -- the receiver asked for a pause
    delivered_at timestamptz,  -- when something was last taken, to some minutes
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    CHECK (disabled_reason IS NULL OR NOT enabled)
) WITH (fillfactor = 70);
CREATE INDEX hook_tenant ON hook (tenant_id, created_at, id);

-- What its messages are signed with: the newest, and those that it took the place of until they expire.
CREATE TABLE hook_secret (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    hook_id text NOT NULL REFERENCES hook ON DELETE CASCADE,
    tenant_id text NOT NULL,
    sealed bytea NOT NULL,  -- under the tenant's key that it names, bound to the hook
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz
);
CREATE INDEX hook_secret_hook ON hook_secret (hook_id, id);

-- One event for one hook, from the transaction of the change it tells of until it expires. No foreign key leads to the
-- hook: each event would lock its row.
CREATE TABLE hook_delivery (
    id text PRIMARY KEY,  -- the webhook-id of every sending
    tenant_id text NOT NULL,
    hook_id text NOT NULL,
    event text NOT NULL,
    subject_id text NOT NULL,  -- the call or phone
    at timestamptz NOT NULL,
    content json NOT NULL,  -- the row as it was, of which server/hook_delivery.py tells some
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'delivered', 'failed')),
    next_at timestamptz,  -- when it is sent; moved into the future by whoever sends it
    give_up_at timestamptz NOT NULL,
    tries integer NOT NULL DEFAULT 0,  -- since it was made, or asked for again by hand
    attempts integer NOT NULL DEFAULT 0,  -- all of them
    attempted_at timestamptz,
    status integer,  -- what the last attempt was answered
    answer text,
    failure text,
    took_ms integer,
    CHECK ((state = 'waiting') = (next_at IS NOT NULL))
) WITH (fillfactor = 80);
CREATE INDEX hook_delivery_due ON hook_delivery (hook_id, next_at) WHERE next_at IS NOT NULL;
CREATE INDEX hook_delivery_hook ON hook_delivery (hook_id, at DESC, id DESC);
CREATE INDEX hook_delivery_age ON hook_delivery (at);

-- Leave word of a change for the tenant's hooks that want it, in the change's own transaction and statement; NULL is no
-- event. A tenant without hooks pays for one look into an index, planned once: left to its statistics, which know nothing
-- of tenants that have none, PostgreSQL plans anew each time, or reads the whole table. The time is taken under the lock of
-- the changed row, so that of two changes of it the later has the later.
CREATE FUNCTION tell_hooks(told text, changed call) RETURNS integer LANGUAGE plpgsql STRICT
    SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    how_many integer;
BEGIN
    -- the usual case is that nobody asked, and to look first is cheaper than to insert nothing
    PERFORM FROM hook h WHERE h.tenant_id = changed.tenant_id AND h.enabled AND told = ANY (h.events);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO hook_delivery (id, tenant_id, hook_id, event, subject_id, at, content, next_at, give_up_at)
    SELECT 'msg_' || replace(gen_random_uuid()::text, '-', ''), changed.tenant_id, h.id, told, changed.id, clock_timestamp(),
        to_json(changed), now(), now() + interval '3 days'
    FROM hook h
    WHERE h.tenant_id = changed.tenant_id AND h.enabled AND told = ANY (h.events);
    GET DIAGNOSTICS how_many = ROW_COUNT;
    RETURN how_many;
END
$$;

CREATE FUNCTION tell_hooks(told text, changed device) RETURNS integer LANGUAGE plpgsql STRICT
    SET enable_seqscan = off SET plan_cache_mode = force_generic_plan AS $$
DECLARE
    how_many integer;
BEGIN
    -- the usual case is that nobody asked, and to look first is cheaper than to insert nothing
    PERFORM FROM hook h WHERE h.tenant_id = changed.tenant_id AND h.enabled AND told = ANY (h.events);
    IF NOT FOUND THEN
        RETURN 0;
    END IF;
    INSERT INTO hook_delivery (id, tenant_id, hook_id, event, subject_id, at, content, next_at, give_up_at)
    SELECT 'msg_' || replace(gen_random_uuid()::text, '-', ''), changed.tenant_id, h.id, told, changed.id, clock_timestamp(),
        (to_jsonb(changed) - '{token_hash,push_token}'::text[])::json, now(), now() + interval '3 days'
    FROM hook h
    WHERE h.tenant_id = changed.tenant_id AND h.enabled AND told = ANY (h.events);
    GET DIAGNOSTICS how_many = ROW_COUNT;
    RETURN how_many;
END
$$;

INSERT INTO role_permission (role, permission) VALUES ('tenant_admin', 'hooks.manage');

-- migrate:down

DELETE FROM role_permission WHERE permission = 'hooks.manage';
DROP FUNCTION tell_hooks(text, call);
DROP FUNCTION tell_hooks(text, device);
DROP TABLE hook_delivery, hook_secret, hook;
