-- migrate:up

-- ---------- lines ----------------------------------------------------------------------------------------------------

-- An account at a cloud provider (seed 003 §4.2.2, seed 000 §3.1, seed 001 infinity_call_configs: three faces of this).
CREATE TABLE call_line (
    id text PRIMARY KEY,
    tenant_id text NOT NULL REFERENCES tenant,
    provider text NOT NULL CHECK (provider IN ('aliyun', 'tencent', 'ronglian', 'tianrun', 'infinity', 'custom')),
    name text NOT NULL,
    account_id text NOT NULL,  -- what names the account at the provider; unique, so that one is not set up twice
    caller_number text,
    settings jsonb NOT NULL DEFAULT '{}',  -- the provider's own, without secrets
    secrets bytea,  -- its credentials, sealed under the tenant's key `key_id` and bound to this row
    key_id integer,
    hints jsonb NOT NULL DEFAULT '{}',  -- each credential masked 6 + 4, so that showing a line decrypts nothing
    token_hash bytea NOT NULL UNIQUE,  -- of the secret in the line's callback URLs, which stands in `secrets`
    allowed_networks text[] NOT NULL DEFAULT '{}',  -- that callbacks may come from; none: any
    callback_url text,  -- seed 000: kept and shown
    status smallint NOT NULL DEFAULT 0 CHECK (status IN (0, 1, 2)),  -- seed 000: 0 off, 1 on, 2 testing
    priority integer NOT NULL DEFAULT 100,  -- the smaller, the sooner
    weight integer NOT NULL DEFAULT 1 CHECK (weight BETWEEN 0 AND 1000),
    max_concurrent integer NOT NULL DEFAULT 100 CHECK (max_concurrent BETWEEN 1 AND 100000),
    daily_limit integer NOT NULL DEFAULT 10000 CHECK (daily_limit BETWEEN 0 AND 100000),  -- 0: none
    user_daily_limit integer NOT NULL DEFAULT 3 CHECK (user_daily_limit BETWEEN 1 AND 10),  -- not enforced yet
    call_timeout integer NOT NULL DEFAULT 60 CHECK (call_timeout BETWEEN 30 AND 180),
    max_retry integer NOT NULL DEFAULT 2 CHECK (max_retry BETWEEN 0 AND 5),  -- not enforced yet
    window_start time NOT NULL DEFAULT '09:00',
    window_end time NOT NULL DEFAULT '20:00',
    interval_minutes integer NOT NULL DEFAULT 120 CHECK (interval_minutes BETWEEN 30 AND 480),  -- not enforced yet
    extension_policy text NOT NULL DEFAULT 'lru' CHECK (extension_policy IN ('lru', 'round_robin', 'affinity')),
    last_extension text,  -- where the round is
    case_types text[] NOT NULL DEFAULT '{}',  -- routing: only these; none: any
    tags text[] NOT NULL DEFAULT '{}',
    ext_data jsonb NOT NULL DEFAULT '{}',
    -- what the machine found
    health text NOT NULL DEFAULT 'ok' CHECK (health IN ('ok', 'suspended', 'frozen')),
    failures integer NOT NULL DEFAULT 0,
    probe_at timestamptz,
    health_reason text,
    health_at timestamptz,
    heard_at timestamptz,  -- when a callback last came
    version integer NOT NULL DEFAULT 1,
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    updated_by text,
    updated_at timestamptz NOT NULL DEFAULT now(),
    deleted_at timestamptz,
    UNIQUE (tenant_id, id),
    FOREIGN KEY (tenant_id, key_id) REFERENCES tenant_key (tenant_id, id),
    CHECK ((secrets IS NULL) = (key_id IS NULL)),
    CHECK (window_start < window_end AND window_start >= '08:00' AND window_end <= '21:00')
);
CREATE UNIQUE INDEX call_line_account ON call_line (tenant_id, provider, account_id) WHERE deleted_at IS NULL;
CREATE UNIQUE INDEX call_line_name ON call_line (tenant_id, name) WHERE deleted_at IS NULL;
CREATE INDEX call_line_probe ON call_line (probe_at) WHERE probe_at IS NOT NULL;

-- Who an agent is at a line's provider.
CREATE TABLE line_seat (
    tenant_id text NOT NULL,
    line_id text NOT NULL,
    user_id text NOT NULL,
    seat_id text NOT NULL DEFAULT '',
    number text NOT NULL DEFAULT '',  -- E.164: the telephone that is rung first
    updated_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (line_id, user_id),
    FOREIGN KEY (tenant_id, line_id) REFERENCES call_line (tenant_id, id),
    FOREIGN KEY (tenant_id, user_id) REFERENCES app_user (tenant_id, id)
);
CREATE INDEX line_seat_user ON line_seat (tenant_id, user_id);

-- How much a line was used on a day of its tenant; written in the dial's own transaction.
CREATE TABLE line_day (
    tenant_id text NOT NULL,
    line_id text NOT NULL,
    day date NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    PRIMARY KEY (line_id, day),
    FOREIGN KEY (tenant_id, line_id) REFERENCES call_line (tenant_id, id)
);

-- Numbers that a line under test may dial.
CREATE TABLE test_number (
    tenant_id text NOT NULL REFERENCES tenant,
    phone text NOT NULL,
    note text NOT NULL DEFAULT '',
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, phone)
);

-- ---------- who may not be called ------------------------------------------------------------------------------------

CREATE TABLE do_not_call (
    id text PRIMARY KEY,  -- by which it is named, since a number has no place in a URL
    tenant_id text NOT NULL REFERENCES tenant,
    phone text NOT NULL,
    reason text NOT NULL DEFAULT '',
    source text NOT NULL DEFAULT 'agent' CHECK (source IN ('agent', 'api', 'import', 'provider')),
    created_by text NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz,
    UNIQUE (tenant_id, phone)
);
CREATE INDEX do_not_call_newest ON do_not_call (tenant_id, id);

ALTER TABLE tenant
    ADD COLUMN calls_enabled boolean NOT NULL DEFAULT true,  -- the switch that turns all calling off
    ADD COLUMN calling_from time NOT NULL DEFAULT '08:00',  -- by the tenant's own clock
    ADD COLUMN calling_to time NOT NULL DEFAULT '21:00',  -- '24:00' is the end of the day
    ADD CHECK (calling_from < calling_to);

-- ---------- extensions -----------------------------------------------------------------------------------------------

-- Seed 001. An extension is leased to one call; a late word about an earlier lease has an older fence, and counts for nothing.
CREATE TABLE extension (
    id text PRIMARY KEY,
    tenant_id text NOT NULL,
    line_id text NOT NULL,
    number text NOT NULL CHECK (number ~ '^[0-9A-Za-z_.-]{1,32}$'),
    status text NOT NULL DEFAULT 'available' CHECK (status IN ('available', 'in_use', 'offline')),
    user_id text,
    call_id text,
    last_user_id text,
    fence bigint NOT NULL DEFAULT 0,
    lease_until timestamptz,
    cool_until timestamptz,  -- a provider refused it: not before then
    last_used_at timestamptz,
    uses bigint NOT NULL DEFAULT 0,
    created_at timestamptz NOT NULL DEFAULT now(),
    UNIQUE (line_id, number),
    FOREIGN KEY (tenant_id, line_id) REFERENCES call_line (tenant_id, id),
    CHECK ((status = 'in_use') = (lease_until IS NOT NULL)),
    CHECK ((status = 'in_use') = (call_id IS NOT NULL))
);
CREATE INDEX extension_free ON extension (line_id, last_used_at NULLS FIRST, number) WHERE status = 'available';
CREATE INDEX extension_lease ON extension (line_id, lease_until) WHERE status = 'in_use';
CREATE UNIQUE INDEX extension_call ON extension (call_id) WHERE call_id IS NOT NULL;

-- ---------- attempts at a provider -----------------------------------------------------------------------------------

-- What the server asks of a provider. Committed before the request is written; never asked twice. `sent_at` is set right
-- before: an attempt that expired without it was never asked.
CREATE TABLE attempt (
    call_id text NOT NULL REFERENCES call ON DELETE CASCADE,
    n integer NOT NULL DEFAULT 1,  -- a definite refusal before ringing may be followed by an attempt at another line
    tenant_id text NOT NULL,
    line_id text NOT NULL,
    provider text NOT NULL,
    seat_id text NOT NULL DEFAULT '',
    seat_number text NOT NULL DEFAULT '',
    extension text,
    extension_fence bigint,
    state text NOT NULL DEFAULT 'committed' CHECK (state IN ('committed', 'sent', 'placed', 'uncertain', 'refused', 'over')),
    provider_call_id text,
    refusal text,
    expires_at timestamptz NOT NULL,
    ordered_at timestamptz NOT NULL DEFAULT now(),
    sent_at timestamptz,
    next_look_at timestamptz,
    looks integer NOT NULL DEFAULT 0,
    hinted_at timestamptz,  -- when a look-up is, or was, that a word of the provider's brought forward
    controls text[] NOT NULL DEFAULT '{}',  -- what the provider can do to the call while it lasts
    called_off_at timestamptz,  -- somebody hung up: no attempt at another line follows
    PRIMARY KEY (call_id, n),
    FOREIGN KEY (tenant_id, line_id) REFERENCES call_line (tenant_id, id)
);
CREATE INDEX attempt_look ON attempt (line_id, next_look_at) WHERE next_look_at IS NOT NULL;
CREATE INDEX attempt_unsent ON attempt (expires_at) WHERE state = 'committed';
CREATE UNIQUE INDEX attempt_provider_call ON attempt (provider_call_id, line_id) WHERE provider_call_id IS NOT NULL;
CREATE INDEX call_live_line ON call (line_id) WHERE ended_at IS NULL AND line_id IS NOT NULL;

-- ---------- what providers say ---------------------------------------------------------------------------------------

CREATE TABLE webhook_inbox (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    tenant_id text NOT NULL,
    line_id text NOT NULL,
    once text NOT NULL,
    kind text NOT NULL,
    query json NOT NULL,  -- as it came: jsonb would refuse NUL, which anybody may send
    headers json NOT NULL,
    body bytea NOT NULL,
    ip inet,
    received_at timestamptz NOT NULL DEFAULT now(),
    state text NOT NULL DEFAULT 'new' CHECK (state IN ('new', 'applied', 'refused', 'failed')),
    tries integer NOT NULL DEFAULT 0,
    next_at timestamptz DEFAULT now(),
    asks boolean NOT NULL DEFAULT false,  -- what it tells is applied; for a recording that it names its provider is asked
    problem text,
    UNIQUE (line_id, once)
);
CREATE INDEX webhook_inbox_due ON webhook_inbox (line_id, next_at) WHERE state = 'new';
CREATE INDEX webhook_inbox_age ON webhook_inbox (received_at) WHERE state <> 'new';

INSERT INTO role_permission (role, permission)
SELECT role, unnest(permissions) FROM (VALUES
    ('tenant_admin', '{lines.read,lines.manage,lines.reveal,do_not_call.read,do_not_call.add,do_not_call.manage,extensions.manage}'::text[]),
    ('operator', '{lines.read,lines.manage,do_not_call.read,do_not_call.add,do_not_call.manage,extensions.manage}'),
    ('supervisor', '{lines.read,do_not_call.read,do_not_call.add}'),
    ('agent', '{lines.read,do_not_call.read,do_not_call.add}'),
    ('viewer', '{lines.read,do_not_call.read}'),
    ('auditor', '{lines.read,do_not_call.read}')
) AS granted (role, permissions);

-- migrate:down

DELETE FROM role_permission WHERE permission LIKE 'lines.%' OR permission LIKE 'do\_not\_call.%' OR permission = 'extensions.manage';
DROP TABLE webhook_inbox, attempt, extension, do_not_call, test_number, line_day, line_seat, call_line;
DROP INDEX call_live_line;
ALTER TABLE tenant DROP COLUMN calls_enabled, DROP COLUMN calling_from, DROP COLUMN calling_to;
