-- migrate:up

-- An index of living calls alone is small in the night, and a plan that is made then reads all of it whatever is asked;
-- what each is for keeps it from what asks by another key.
DROP INDEX call_live_device;
CREATE UNIQUE INDEX call_live_device ON call (device_id) WHERE ended_at IS NULL AND device_id IS NOT NULL;
DROP INDEX call_live_user;
CREATE INDEX call_live_user ON call (user_id) WHERE ended_at IS NULL AND user_id IS NOT NULL;
DROP INDEX call_reap;
CREATE INDEX call_reap ON call (reap_at) WHERE ended_at IS NULL AND reap_at IS NOT NULL;

-- The phones of an agent are looked for by the agent.
DROP INDEX device_user;
CREATE INDEX device_user ON device (user_id, tenant_id) WHERE unbound_at IS NULL;

-- A number that is not called is looked for by the number; an index by tenant as well would be as good as that of a
-- tenant's newest, as long as there are few.
ALTER TABLE do_not_call
    DROP CONSTRAINT do_not_call_tenant_id_phone_key,
    ADD UNIQUE (phone, tenant_id);

-- migrate:down

DROP INDEX device_user;
CREATE INDEX device_user ON device (tenant_id, user_id) WHERE unbound_at IS NULL;
ALTER TABLE do_not_call
    DROP CONSTRAINT do_not_call_phone_tenant_id_key,
    ADD UNIQUE (tenant_id, phone);

DROP INDEX call_live_device;
CREATE UNIQUE INDEX call_live_device ON call (device_id) WHERE ended_at IS NULL;
DROP INDEX call_live_user;
CREATE INDEX call_live_user ON call (user_id) WHERE ended_at IS NULL;
DROP INDEX call_reap;
CREATE INDEX call_reap ON call (reap_at) WHERE ended_at IS NULL;
