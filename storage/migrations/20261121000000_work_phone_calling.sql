-- migrate:up

-- ---------- tenants, people, credentials -----------------------------------------------------------------------------

CREATE TABLE tenant (
    id text PRIMARY KEY,
    code text NOT NULL UNIQUE CHECK (code ~ '^[a-z0-9][a-z0-9-]{0,62}$'),
    name text NOT NULL,
    timezone text NOT NULL DEFAULT 'Asia/Shanghai',
    region text NOT NULL DEFAULT 'CN',
    status text NOT NULL DEFAULT 'active' CHECK (status IN ('active', 'suspended')),
    -- what an agent may choose in the quick record after a call (seed 003 §6.4)
    call_results text[] NOT NULL DEFAULT '{已接通,未接通,无人接听,占线,拒接,空号,停机,关机,稍后联系}',
    call_intentions text[] NOT NULL DEFAULT '{有意向,强意向,一般,无意向,待跟进,已成交}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE team (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    name text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, name),
    UNIQUE (tenant_id, id)
);

CREATE TABLE role (
    code text PRIMARY KEY,
    name text NOT NULL,
    -- whose calls, phones and follow-ups the role reaches
    reach text NOT NULL CHECK (reach IN ('own', 'teams', 'tenant', 'installation'))
);

CREATE TABLE role_permission (
    role text NOT NULL REFERENCES role,
    permission text NOT NULL,
    PRIMARY KEY (role, permission)
);

CREATE TABLE app_user (
    id text PRIMARY KEY,
    tenant_id text REFERENCES tenant,  -- NULL for a system_admin only
    team_id text,
    role text NOT NULL REFERENCES role,
    username text NOT NULL CHECK (username ~ '^[A-Za-z0-9][A-Za-z0-9._@-]{0,63}$'),
    name text NOT NULL,
    password_hash text NOT NULL,
    must_change_password boolean NOT NULL DEFAULT false,
    failed_logins integer NOT NULL DEFAULT 0,
    locked_until timestamptz,
    disabled_at timestamptz,
    -- the outbound configuration of seed 003 §6.1
    call_method text NOT NULL DEFAULT 'mobile' CHECK (call_method IN ('mobile', 'cloud')),
    default_device_id text,
    default_line_id text,
    call_parameters jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, team_id) REFERENCES team (tenant_id, id),
    CHECK ((tenant_id IS NULL) = (role = 'system_admin')),
    UNIQUE (tenant_id, id)
);
CREATE UNIQUE INDEX app_user_username ON app_user (lower(username));
CREATE INDEX app_user_tenant ON app_user (tenant_id, team_id);

CREATE TABLE team_supervisor (
    tenant_id text NOT NULL,
    team_id text NOT NULL,
    user_id text NOT NULL,
    PRIMARY KEY (team_id, user_id),
    FOREIGN KEY (tenant_id, team_id) REFERENCES team (tenant_id, id) ON DELETE CASCADE,
    FOREIGN KEY (tenant_id, user_id) REFERENCES app_user (tenant_id, id) ON DELETE CASCADE
);
CREATE INDEX team_supervisor_user ON team_supervisor (user_id);

-- One sign-in: the family of refresh tokens that grew from it. An access token dies with its login.
CREATE TABLE login (
    id text PRIMARY KEY,
    user_id text NOT NULL REFERENCES app_user,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    revoked_at timestamptz,
    revoke_reason text,
    ip inet,
    user_agent text,
    api_key_id text  -- set where a CRM exchanged its key for this agent's session
);
CREATE INDEX login_live ON login (user_id) WHERE revoked_at IS NULL;
CREATE INDEX login_api_key ON login (api_key_id) WHERE api_key_id IS NOT NULL AND revoked_at IS NULL;
CREATE INDEX login_expiry ON login (expires_at);

CREATE TABLE refresh_token (
    hash bytea PRIMARY KEY,
    login_id text NOT NULL REFERENCES login ON DELETE CASCADE,
    created_at timestamptz NOT NULL DEFAULT now(),
    used_at timestamptz
);
CREATE INDEX refresh_token_login ON refresh_token (login_id);

CREATE TABLE api_key (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    name text NOT NULL,
    prefix text NOT NULL,
    hash bytea NOT NULL UNIQUE,
    scopes text[] NOT NULL,
    created_by text NOT NULL REFERENCES app_user,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    last_used_at timestamptz,
    revoked_at timestamptz
);
CREATE UNIQUE INDEX api_key_name ON api_key (tenant_id, name) WHERE revoked_at IS NULL;

-- The answer to a POST that created something, kept so that the same key and body get the same answer.
CREATE TABLE idempotency_key (
    tenant_id text NOT NULL,
    actor_id text NOT NULL,
    operation text NOT NULL,
    key text NOT NULL,
    request_sha256 bytea NOT NULL,
    answer bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT idempotency_key_once PRIMARY KEY (tenant_id, actor_id, operation, key)
);
CREATE INDEX idempotency_key_age ON idempotency_key (created_at);

CREATE TABLE audit_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text,
    actor_kind text NOT NULL CHECK (actor_kind IN ('user', 'api_key', 'phone', 'system')),
    actor_id text NOT NULL,
    action text NOT NULL,
    resource text NOT NULL,
    resource_id text NOT NULL,
    before jsonb,
    after jsonb,
    reason text,
    ip inet,
    request_id text,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX audit_log_tenant ON audit_log (tenant_id, id DESC);
CREATE INDEX audit_log_resource ON audit_log (tenant_id, resource, resource_id, id DESC);

-- ---------- nodes and agents' streams --------------------------------------------------------------------------------

-- One life of one server process. It holds sessions only while leased_until lies ahead and swept_at is NULL.
CREATE TABLE node (
    boot_id text PRIMARY KEY,
    name text NOT NULL,
    kind text NOT NULL CHECK (kind IN ('web', 'worker')),
    started_at timestamptz NOT NULL DEFAULT now(),
    leased_until timestamptz NOT NULL,
    swept_at timestamptz
);
CREATE INDEX node_lease ON node (leased_until) WHERE swept_at IS NULL;

CREATE TABLE agent_stream (
    user_id text PRIMARY KEY REFERENCES app_user,
    tenant_id text NOT NULL REFERENCES tenant,
    last_seq bigint NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Which nodes hold pages of an agent.
CREATE TABLE agent_node (
    user_id text NOT NULL,
    node text NOT NULL REFERENCES node (boot_id) ON DELETE CASCADE,
    PRIMARY KEY (user_id, node)
);
CREATE INDEX agent_node_node ON agent_node (node);

CREATE TABLE agent_event (
    user_id text NOT NULL,
    seq bigint NOT NULL,
    type text NOT NULL,
    data json NOT NULL,  -- json, not jsonb: the very bytes that were sent
    at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (user_id, seq)
);
CREATE INDEX agent_event_age ON agent_event (at);

-- Gives an agent the next event. The row lock on agent_stream is held until commit, so that the order of seq is the
-- order of commits: call it last in a transaction, agents ascending. Never a SEQUENCE: one can commit out of order.
CREATE FUNCTION emit(agent text, kind text, body json) RETURNS bigint LANGUAGE plpgsql AS $$
DECLARE
    next_seq bigint;
BEGIN
    UPDATE agent_stream SET last_seq = last_seq + 1 WHERE user_id = agent RETURNING last_seq INTO STRICT next_seq;
    INSERT INTO agent_event (user_id, seq, type, data) VALUES (agent, next_seq, kind, body);
    RETURN next_seq;
END
$$;

-- ---------- devices --------------------------------------------------------------------------------------------------

CREATE TABLE bind_token (
    hash bytea PRIMARY KEY,
    typed_hash bytea NOT NULL UNIQUE,
    tenant_id text NOT NULL REFERENCES tenant,
    user_id text NOT NULL,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    used_at timestamptz,
    FOREIGN KEY (tenant_id, user_id) REFERENCES app_user (tenant_id, id)
);
CREATE INDEX bind_token_expiry ON bind_token (expires_at);

CREATE TABLE device (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    hardware_id text NOT NULL,  -- the seed's deviceId, as the app tells it
    user_id text NOT NULL,
    phone_number text NOT NULL,
    name text NOT NULL,
    model text NOT NULL,
    os_type text NOT NULL CHECK (os_type IN ('android', 'ios')),
    os_version text NOT NULL,
    app_version text NOT NULL,
    token_hash bytea NOT NULL UNIQUE,
    push_token bytea,  -- AES-256-GCM, bound to this row
    capabilities jsonb NOT NULL DEFAULT '{}',
    bound_at timestamptz NOT NULL DEFAULT now(),
    unbound_at timestamptz,
    -- presence: written under `conn_epoch` only, so that an old session cannot speak for a newer one
    conn_epoch bigint NOT NULL DEFAULT 0,
    connection bigint NOT NULL DEFAULT 0,
    boot_id text NOT NULL DEFAULT '',
    node text,
    online_status text NOT NULL DEFAULT 'offline' CHECK (online_status IN ('online', 'offline')),
    lost_at timestamptz,  -- since when there is no socket; online until the grace is swept
    handset_busy boolean NOT NULL DEFAULT false,
    last_heartbeat timestamptz,
    UNIQUE (tenant_id, hardware_id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES app_user (tenant_id, id)
) WITH (fillfactor = 70);
CREATE INDEX device_user ON device (tenant_id, user_id) WHERE unbound_at IS NULL;
CREATE INDEX device_node ON device (node) WHERE node IS NOT NULL;
CREATE INDEX device_in_grace ON device (lost_at) WHERE lost_at IS NOT NULL AND online_status = 'online';

-- Seed 003 §4.2.4.
CREATE TABLE device_bind_log (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    user_id text NOT NULL,
    device_id text NOT NULL,
    hardware_id text NOT NULL,
    phone_number text NOT NULL,
    device_name text NOT NULL,
    device_model text NOT NULL,
    os_type text NOT NULL,
    bind_type text NOT NULL CHECK (bind_type IN ('qrcode', 'manual')),
    action text NOT NULL CHECK (action IN ('bind', 'unbind', 'move')),
    reason text,
    ip inet,
    at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX device_bind_log_tenant ON device_bind_log (tenant_id, id DESC);
CREATE INDEX device_bind_log_device ON device_bind_log (tenant_id, device_id, id DESC);
CREATE INDEX device_bind_log_user ON device_bind_log (tenant_id, user_id, id DESC);

-- ---------- calls ----------------------------------------------------------------------------------------------------

CREATE TABLE call (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    user_id text NOT NULL,
    team_id text,
    created_by text NOT NULL,  -- the user or API key that asked
    device_id text REFERENCES device,
    call_method text NOT NULL CHECK (call_method IN ('mobile', 'cloud', 'sip')),
    line_id text,
    provider_call_id text,
    provider_job_id text,
    caller_number text,
    customer_phone text NOT NULL,
    customer_id text,
    customer_name text,
    order_id text,
    external_id text,
    custom_data json,
    -- what reports can change: protocol/call.py CallState, moved by compare-and-set on version
    version integer NOT NULL DEFAULT 1,
    status text NOT NULL DEFAULT 'pending' CHECK (status IN ('pending', 'calling', 'ringing', 'connected', 'ended')),
    outcome text CHECK (outcome IN ('connected', 'missed', 'busy', 'rejected', 'failed', 'cancelled', 'unknown')),
    closed_by text CHECK (closed_by IN ('phone', 'provider', 'reaper', 'server')),
    evidence text,
    hangup_cause text,
    raw_cause text,
    created_at timestamptz NOT NULL DEFAULT now(),
    dialing_at timestamptz,
    ringing_at timestamptz,
    connected_at timestamptz,
    connected_evidence text,
    ended_at timestamptz,
    duration integer CHECK (duration >= 0),
    has_recording boolean,
    recording_size bigint,
    updated_at timestamptz NOT NULL DEFAULT now(),
    -- when the reaper next looks; moved on with the status, NULL once ended
    reap_at timestamptz,
    -- the quick record of seed 003 §6.4
    follow_up_result text,
    follow_up_intention text,
    follow_up_note text,
    follow_up_next_at timestamptz,
    follow_up_done_at timestamptz,  -- the next follow-up was made or dropped
    followed_up_at timestamptz,
    followed_up_by text,
    FOREIGN KEY (tenant_id, user_id) REFERENCES app_user (tenant_id, id),
    CHECK ((status = 'ended') = (ended_at IS NOT NULL)),
    CHECK ((status = 'ended') = (outcome IS NOT NULL)),
    CHECK (status = 'ended' OR reap_at IS NOT NULL),
    UNIQUE (tenant_id, id)
) WITH (fillfactor = 80);
-- One live call per phone: this index, not a check before it, is what says DEVICE_BUSY.
CREATE UNIQUE INDEX call_live_device ON call (device_id) WHERE ended_at IS NULL;
CREATE INDEX call_live_user ON call (user_id) WHERE ended_at IS NULL;
CREATE INDEX call_reap ON call (reap_at) WHERE ended_at IS NULL;
CREATE INDEX call_tenant ON call (tenant_id, created_at DESC, id DESC);
CREATE INDEX call_user ON call (tenant_id, user_id, created_at DESC, id DESC);
CREATE INDEX call_team ON call (tenant_id, team_id, created_at DESC, id DESC);
CREATE INDEX call_updated ON call (tenant_id, updated_at, id);
CREATE INDEX call_customer ON call (tenant_id, customer_id, created_at DESC) WHERE customer_id IS NOT NULL;
CREATE INDEX call_customer_phone ON call (tenant_id, customer_phone, created_at DESC);
CREATE INDEX call_external ON call (tenant_id, external_id) WHERE external_id IS NOT NULL;
CREATE INDEX call_follow_up_due ON call (tenant_id, user_id, follow_up_next_at)
    WHERE follow_up_next_at IS NOT NULL AND follow_up_done_at IS NULL;
CREATE INDEX call_follow_up_due_tenant ON call (tenant_id, follow_up_next_at, id)
    WHERE follow_up_next_at IS NOT NULL AND follow_up_done_at IS NULL;
CREATE INDEX call_not_recorded ON call (tenant_id, user_id, ended_at DESC, id DESC)
    WHERE ended_at IS NOT NULL AND followed_up_at IS NULL;
CREATE INDEX call_not_recorded_tenant ON call (tenant_id, ended_at DESC, id DESC)
    WHERE ended_at IS NOT NULL AND followed_up_at IS NULL;
CREATE INDEX call_live ON call (tenant_id, created_at DESC, id DESC) WHERE status <> 'ended';
CREATE INDEX call_order ON call (tenant_id, order_id, created_at DESC, id DESC) WHERE order_id IS NOT NULL;

CREATE TABLE call_event (
    call_id text NOT NULL REFERENCES call ON DELETE CASCADE,
    id bigint GENERATED ALWAYS AS IDENTITY,
    tenant_id text NOT NULL,
    at timestamptz NOT NULL DEFAULT now(),
    source text NOT NULL CHECK (source IN ('agent', 'api', 'phone', 'provider', 'reaper', 'server')),
    kind text NOT NULL,
    effect text NOT NULL CHECK (effect IN ('created', 'moved', 'enriched', 'none', 'illegal')),
    message_id text,  -- the report's id: a repeat finds itself here
    data json NOT NULL,
    PRIMARY KEY (call_id, id)
);
CREATE UNIQUE INDEX call_event_once ON call_event (call_id, message_id) WHERE message_id IS NOT NULL;

-- What the server asks of a phone. Committed before it is sent; the id is the messageId of every sending.
CREATE TABLE command (
    id text PRIMARY KEY,
    tenant_id text NOT NULL,
    call_id text NOT NULL REFERENCES call ON DELETE CASCADE,
    device_id text NOT NULL REFERENCES device,
    type text NOT NULL CHECK (type IN ('DIAL_COMMAND', 'CANCEL_DIAL')),
    data json NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    next_send_at timestamptz,  -- NULL once acked, overtaken or expired
    sends integer NOT NULL DEFAULT 1,
    acked_at timestamptz
) WITH (fillfactor = 70);
CREATE INDEX command_due ON command (next_send_at) WHERE next_send_at IS NOT NULL;
CREATE INDEX command_waiting ON command (device_id) WHERE next_send_at IS NOT NULL;
CREATE INDEX command_call ON command (call_id);
CREATE UNIQUE INDEX command_cancel_once ON command (call_id) WHERE type = 'CANCEL_DIAL';

-- ---------- customers ------------------------------------------------------------------------------------------------

CREATE TABLE customer (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    external_id text,
    name text NOT NULL,
    phone text NOT NULL,
    tags text[] NOT NULL DEFAULT '{}',
    order_ids text[] NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (tenant_id, external_id)
);
CREATE INDEX customer_tenant ON customer (tenant_id, id DESC);
CREATE INDEX customer_phone ON customer (tenant_id, phone);
CREATE INDEX customer_tags ON customer USING gin (tags);

-- ---------- roles, as data -------------------------------------------------------------------------------------------

INSERT INTO role (code, name, reach) VALUES
    ('system_admin', '系统管理员', 'installation'),
    ('tenant_admin', '企业管理员', 'tenant'),
    ('operator', '运维', 'tenant'),
    ('supervisor', '主管', 'teams'),
    ('agent', '坐席', 'own'),
    ('viewer', '只读', 'tenant'),
    ('auditor', '审计', 'tenant');

INSERT INTO role_permission (role, permission)
SELECT role, unnest(permissions) FROM (VALUES
    ('system_admin', '{tenants.manage,users.read,users.manage,audit.read}'::text[]),
    ('tenant_admin', '{users.read,users.manage,teams.manage,api_keys.manage,audit.read,tenant.configure,devices.read,devices.bind,devices.manage,calls.read,calls.dial,calls.control,calls.follow_up,calls.statistics,customers.read,customers.write,customers.reveal}'),
    ('operator', '{users.read,devices.read,devices.manage,calls.read,calls.control,calls.statistics,customers.read,customers.write}'),
    ('supervisor', '{users.read,devices.read,devices.bind,devices.manage,calls.read,calls.dial,calls.control,calls.follow_up,calls.statistics,customers.read,customers.write}'),
    ('agent', '{devices.read,devices.bind,calls.read,calls.dial,calls.control,calls.follow_up,calls.statistics,customers.read}'),
    ('viewer', '{users.read,devices.read,calls.read,calls.statistics,customers.read}'),
    ('auditor', '{users.read,devices.read,calls.read,calls.statistics,customers.read,customers.reveal,audit.read}')
) AS granted (role, permissions);

-- migrate:down

DROP TABLE customer, command, call_event, call, device_bind_log, device, bind_token, agent_event, agent_node, agent_stream, node,
    audit_log, idempotency_key, api_key, refresh_token, login, team_supervisor, app_user, role_permission, role, team, tenant;
DROP FUNCTION emit(text, text, json);
