-- 0015_children.sql: what gateways ask for their children, and what they are told of them

SET LOCAL lock_timeout = '3s';

-- data: which children are online when their gateway goes
GRANT SELECT ON registry.child_view TO data;

-- Gateways that went, until their children are OFFLINE: session_no is the one that ended.
CREATE TABLE data.gateway_gone (
    device_key bigint PRIMARY KEY,
    partition  int    NOT NULL,
    session_no bigint NOT NULL
);
CREATE INDEX gateway_gone_by_partition ON data.gateway_gone (partition);

-- A request of a device to device-registry, until it is answered: stored in the transaction of the EVENT reader.
CREATE TABLE registry.device_request (
    id         bigserial PRIMARY KEY,
    partition  int    NOT NULL,
    device_key bigint NOT NULL,
    device_id  text   NOT NULL,
    app_id     text   NOT NULL,
    gateway    text   NOT NULL,
    session_no bigint NOT NULL,
    body       text   NOT NULL
);
CREATE INDEX device_request_by_partition ON registry.device_request (partition, id);

-- The list of children of a directly connected device: its version grows by one with each child added or removed. told:
-- as far as the device was told.
CREATE TABLE registry.child_list (
    root_id   text   PRIMARY KEY,
    partition int    NOT NULL,
    version   bigint NOT NULL DEFAULT 0,
    told      bigint NOT NULL DEFAULT 0
);
CREATE INDEX child_list_untold ON registry.child_list (partition) WHERE version > told;
CREATE TABLE registry.child_change (
    root_id   text    NOT NULL,
    version   bigint  NOT NULL,
    added     boolean NOT NULL,
    device_id text    NOT NULL,
    node_id   text    NOT NULL,
    parent_id text    NOT NULL,
    PRIMARY KEY (root_id, version)
);

-- The last thousand changes are kept: whoever is further behind gets the whole list.
CREATE FUNCTION registry.note_child(root text, part int, is_added boolean, id text, node text, parent text)
    RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    v bigint;
BEGIN
    INSERT INTO registry.child_list AS l (root_id, partition, version) VALUES (root, part, 1)
    ON CONFLICT (root_id) DO UPDATE SET version = l.version + 1, partition = excluded.partition RETURNING version INTO v;
    INSERT INTO registry.child_change (root_id, version, added, device_id, node_id, parent_id)
    VALUES (root, v, is_added, id, node, parent);
    DELETE FROM registry.child_change WHERE root_id = root AND version <= v - 1000;
END $$;
CREATE FUNCTION registry.parent_id(k bigint) RETURNS text LANGUAGE sql STABLE
    AS $$ SELECT coalesce((SELECT device_id FROM registry.device WHERE device_key = k), '') $$;
CREATE FUNCTION registry.note_children() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF TG_OP IN ('DELETE', 'UPDATE') AND OLD.depth > 0 THEN
        PERFORM registry.note_child(OLD.root_id, OLD.partition, false, OLD.device_id, OLD.node_id,
                                    registry.parent_id(OLD.parent_key));
    END IF;
    IF TG_OP IN ('INSERT', 'UPDATE') AND NEW.depth > 0 THEN
        PERFORM registry.note_child(NEW.root_id, NEW.partition, true, NEW.device_id, NEW.node_id,
                                    registry.parent_id(NEW.parent_key));
    END IF;
    IF TG_OP = 'DELETE' AND OLD.depth = 0 THEN
        DELETE FROM registry.child_list WHERE root_id = OLD.device_id;
        DELETE FROM registry.child_change WHERE root_id = OLD.device_id;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER note_child_inserted AFTER INSERT ON registry.device FOR EACH ROW WHEN (NEW.depth > 0)
    EXECUTE FUNCTION registry.note_children();
CREATE TRIGGER note_child_deleted AFTER DELETE ON registry.device FOR EACH ROW EXECUTE FUNCTION registry.note_children();
CREATE TRIGGER note_child_moved AFTER UPDATE OF parent_key ON registry.device FOR EACH ROW
    WHEN (OLD.parent_key IS DISTINCT FROM NEW.parent_key) EXECUTE FUNCTION registry.note_children();

INSERT INTO public.schema_migration (version, name) VALUES (15, 'children');
