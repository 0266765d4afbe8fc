-- migrate:up

-- Since when a node holds pages of an agent, for the board of a supervisor.
ALTER TABLE agent_node ADD COLUMN since timestamptz NOT NULL DEFAULT now();

INSERT INTO role_permission (role, permission)
SELECT role, unnest(permissions) FROM (VALUES
    ('tenant_admin', '{calls.board,calls.export}'::text[]),
    ('operator', '{calls.board}'),
    ('supervisor', '{calls.board,calls.export}'),
    ('viewer', '{calls.board}'),
    ('auditor', '{calls.board,calls.export}')
) AS granted (role, permissions);

-- migrate:down

DELETE FROM role_permission WHERE permission IN ('calls.board', 'calls.export');
ALTER TABLE agent_node DROP COLUMN since;
