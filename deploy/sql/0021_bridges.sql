-- 0021_bridges.sql: bridges, whose one connection many devices share

SET LOCAL lock_timeout = '3s';

-- gateway: the instance that holds its connection, as session session_no; NULL: none.
CREATE TABLE registry.bridge (
    bridge_id   text PRIMARY KEY,
    record_id   text NOT NULL UNIQUE DEFAULT registry.record_id(),
    bridge_name text NOT NULL,
    secret      text NOT NULL, -- sealed
    gateway     text,
    session_no  bigint,
    created     timestamptz NOT NULL DEFAULT now()
);

INSERT INTO public.schema_migration (version, name) VALUES (21, 'bridges');
