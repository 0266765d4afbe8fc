-- migrate:up

-- Seed 003 §8.5; the notice is what an agent must tell a customer before the call is recorded.
ALTER TABLE tenant
    ADD COLUMN recording_enabled boolean NOT NULL DEFAULT true,
    ADD COLUMN recording_notice text NOT NULL DEFAULT '',
    ADD COLUMN recording_days integer NOT NULL DEFAULT 90 CHECK (recording_days BETWEEN 1 AND 3650);

ALTER TABLE call
    ADD COLUMN record boolean NOT NULL DEFAULT true,  -- whether recording was on when the call was dialled
    -- what became of the recording; NULL: nothing yet, and where has_recording says that there is one, it is awaited
    ADD COLUMN recording_status text CHECK (recording_status IN ('ready', 'failed', 'expired', 'deleted'));

-- Data keys of a tenant, each sealed under a master key and bound to this row; the highest id encrypts.
CREATE TABLE tenant_key (
    tenant_id text NOT NULL REFERENCES tenant,
    id integer NOT NULL,
    sealed bytea NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (tenant_id, id)
);

-- A call's one recording. The row is inserted as `storing` before the object is completed: only one upload of a call
-- may do that. What stands there past `settle_at` is settled by the worker, by looking at the object itself.
CREATE TABLE recording (
    call_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    state text NOT NULL DEFAULT 'storing' CHECK (state IN ('storing', 'stored', 'leaving', 'expired', 'deleted')),
    source text NOT NULL CHECK (source IN ('phone', 'agent', 'provider')),
    actor_id text NOT NULL,  -- the phone, user, API key or line that brought it
    place text NOT NULL,  -- `s3`, or `folder:<id of the folder>`
    object_key text NOT NULL,
    store_upload_id text NOT NULL,
    media_type text NOT NULL,
    size bigint NOT NULL CHECK (size > 0),
    sha256 bytea NOT NULL CHECK (length(sha256) = 32),
    key_id integer,  -- of the tenant's key it is encrypted under; NULL: it is not
    salt bytea,
    settle_at timestamptz,  -- when the worker next looks: at an upload, a move or a deletion that did not end
    move_upload_id text,  -- of the bucket, while it is moved there: aborted by who drops the recording
    stored_at timestamptz,
    held_at timestamptz,  -- legal hold
    hold_reason text,
    leaving_as text CHECK (leaving_as IN ('expired', 'deleted')),
    left_at timestamptz,
    -- what the audio is, read by the worker
    read_at timestamptz,
    next_read_at timestamptz,
    unreadable text,
    duration_ms bigint,
    codec text,
    sample_rate integer,
    channels integer,
    peaks bytea,
    FOREIGN KEY (tenant_id, call_id) REFERENCES call (tenant_id, id),
    FOREIGN KEY (tenant_id, key_id) REFERENCES tenant_key (tenant_id, id),
    CHECK ((key_id IS NULL) = (salt IS NULL)),
    CHECK (state <> 'storing' OR settle_at IS NOT NULL),
    CHECK ((state IN ('storing')) = (stored_at IS NULL)),
    CHECK ((state IN ('leaving', 'expired', 'deleted')) = (leaving_as IS NOT NULL))
);
CREATE INDEX recording_settle ON recording (settle_at) WHERE settle_at IS NOT NULL;
CREATE INDEX recording_in_folder ON recording (place) WHERE state = 'stored' AND place <> 's3';
CREATE INDEX recording_unread ON recording (next_read_at) WHERE next_read_at IS NOT NULL;
CREATE INDEX recording_age ON recording (tenant_id, stored_at) WHERE state = 'stored' AND held_at IS NULL;
CREATE INDEX recording_key ON recording (object_key);

-- An upload under way, by one request or in parts.
CREATE TABLE recording_upload (
    id text PRIMARY KEY,
    tenant_id text NOT NULL,
    call_id text NOT NULL,
    source text NOT NULL CHECK (source IN ('phone', 'agent', 'provider')),
    actor_id text NOT NULL,
    place text NOT NULL,
    object_key text NOT NULL,
    store_upload_id text NOT NULL,
    media_type text NOT NULL,
    size bigint,  -- as it was told; NULL where one request brings the file
    sha256 bytea,
    key_id integer,
    salt bytea,
    created_at timestamptz NOT NULL DEFAULT now(),
    expires_at timestamptz NOT NULL,
    FOREIGN KEY (tenant_id, call_id) REFERENCES call (tenant_id, id),
    FOREIGN KEY (tenant_id, key_id) REFERENCES tenant_key (tenant_id, id)
);
CREATE INDEX recording_upload_call ON recording_upload (tenant_id, call_id);
CREATE INDEX recording_upload_expiry ON recording_upload (expires_at);

-- What a part of an encrypted upload brought: other bytes are never sealed under the same nonce.
CREATE TABLE recording_part (
    tenant_id text NOT NULL,
    upload_id text NOT NULL REFERENCES recording_upload ON DELETE CASCADE,
    number integer NOT NULL,
    sha256 bytea NOT NULL,
    PRIMARY KEY (upload_id, number)
);

-- A recording that a provider offers at a URL, until it is fetched or given up.
CREATE TABLE recording_fetch (
    call_id text PRIMARY KEY,
    tenant_id text NOT NULL,
    line_id text NOT NULL,
    url bytea NOT NULL,  -- sealed: it carries a signature
    state text NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'failed')),
    tries integer NOT NULL DEFAULT 0,
    next_at timestamptz NOT NULL,
    give_up_at timestamptz NOT NULL,
    failure text,
    created_at timestamptz NOT NULL DEFAULT now(),
    FOREIGN KEY (tenant_id, call_id) REFERENCES call (tenant_id, id)
);
CREATE INDEX recording_fetch_due ON recording_fetch (next_at) WHERE state = 'waiting';

INSERT INTO role_permission (role, permission)
SELECT role, unnest(permissions) FROM (VALUES
    ('tenant_admin', '{recordings.listen,recordings.download,recordings.attach,recordings.manage}'::text[]),
    ('supervisor', '{recordings.listen,recordings.download,recordings.attach}'),
    ('agent', '{recordings.listen,recordings.attach}'),
    ('auditor', '{recordings.listen}')
) AS granted (role, permissions);

-- migrate:down

DELETE FROM role_permission WHERE permission LIKE 'recordings.%';
DROP TABLE recording_fetch, recording_part, recording_upload, recording, tenant_key;
ALTER TABLE call DROP COLUMN record, DROP COLUMN recording_status;
ALTER TABLE tenant DROP COLUMN recording_enabled, DROP COLUMN recording_notice, DROP COLUMN recording_days;
