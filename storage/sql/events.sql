-- name: emit
-- Give each agent its events, agents ascending and each agent's in the order given; tell the nodes that hold its pages.
SELECT e.user_id, e.type, e.data, emit(e.user_id, e.type, e.data::json) AS seq,
    ARRAY(SELECT n.node FROM agent_node n WHERE n.user_id = e.user_id) AS nodes
FROM (
    SELECT * FROM unnest($1::text[], $2::text[], $3::text[]) WITH ORDINALITY AS t (user_id, type, data, position)
    ORDER BY user_id, position
) e;

-- name: since
-- The events of one agent after a seq, oldest first.
SELECT seq, type, data, at
FROM agent_event
WHERE user_id = $1 AND seq > $2
ORDER BY seq
LIMIT $3;

-- name: position
-- How far the stream of one agent is, and the time.
SELECT coalesce((SELECT last_seq FROM agent_stream WHERE user_id = $1), 0) AS last_seq, clock_timestamp() AS now;

-- name: last_seqs
-- How far the streams of these agents are.
SELECT user_id, last_seq
FROM agent_stream
WHERE user_id = ANY ($1::text[]);

-- name: expire
-- Drop a batch of events that are older than pages may resume from. The order has it look along the index by age: with a
-- bound on the rows alone PostgreSQL hopes to meet them soon, and reads the table.
DELETE FROM agent_event
WHERE ctid = ANY (
    ARRAY(SELECT ctid FROM agent_event WHERE at < now() - make_interval(secs => $1::float8) ORDER BY at LIMIT 5000)
);
