-- 0010_registry_core.sql: counters of devices, the reason of a deletion, secrets of spaces, an index behind each list
--
-- While this runs, device-registry of the release before waits for a lock for a moment: the counters begin as a count.

SET LOCAL lock_timeout = '3s';

ALTER TABLE registry.app ADD COLUMN secret text; -- sealed; NULL: never asked for
ALTER TABLE registry.product ADD COLUMN manufacturer_id text, ADD COLUMN model text, -- of the ZIP form
    ADD COLUMN has_defaults boolean GENERATED ALWAYS AS
        (jsonb_path_exists(service_capabilities, '$[*].properties[*].default_value')) STORED;
CREATE UNIQUE INDEX product_by_model ON registry.product (app_id, manufacturer_id, model);
CREATE INDEX product_by_app ON registry.product (app_id, record_id);
CREATE INDEX product_by_name ON registry.product (name, record_id);

ALTER TABLE registry.device_tombstone ADD COLUMN reason text, ADD COLUMN deleted_by text, ADD COLUMN request_id text;

-- Each list walks one of these from its marker downwards.
CREATE INDEX device_by_app ON registry.device (app_id, record_id);
CREATE INDEX device_by_node_id ON registry.device (node_id, record_id);
CREATE INDEX device_by_device_name ON registry.device (device_name, record_id) WHERE device_name IS NOT NULL;
CREATE INDEX device_by_parent_key ON registry.device (parent_key, record_id) WHERE parent_key IS NOT NULL;
CREATE INDEX device_below_root ON registry.device (root_id, record_id) WHERE depth > 0;
DROP INDEX registry.device_by_node, registry.device_by_name, registry.device_by_parent;

-- How many devices a product has in each status, and a gateway below it. Changed by the statement that changes the
-- devices. A number is spread over four rows by connection, so that two connections seldom wait for each other.
CREATE TABLE registry.device_count (
    app_id      text   NOT NULL,
    product_key bigint NOT NULL,
    status      text   NOT NULL,
    spread      int    NOT NULL,
    n           bigint NOT NULL,
    PRIMARY KEY (app_id, product_key, status, spread)
) WITH (fillfactor = 50);
CREATE TABLE registry.child_count (
    parent_key bigint NOT NULL,
    spread     int    NOT NULL,
    n          bigint NOT NULL,
    PRIMARY KEY (parent_key, spread)
) WITH (fillfactor = 50);

CREATE FUNCTION registry.shown_status(frozen boolean, status text) RETURNS text LANGUAGE sql IMMUTABLE
    AS $$ SELECT CASE WHEN frozen THEN 'FROZEN' ELSE status END $$;

-- Rows in the order of their keys: two statements that touch the same ones wait in line.
CREATE FUNCTION registry.count_devices() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    at int := pg_backend_pid() % 4;
BEGIN
    IF TG_OP = 'UPDATE' THEN
        INSERT INTO registry.device_count AS c (app_id, product_key, status, spread, n)
        SELECT app_id, product_key, st, at, sum(d) FROM (
            SELECT app_id, product_key, registry.shown_status(frozen, status) AS st, 1 AS d FROM new_rows
            UNION ALL SELECT app_id, product_key, registry.shown_status(frozen, status), -1 FROM old_rows) x
        GROUP BY 1, 2, 3 HAVING sum(d) <> 0 ORDER BY 1, 2, 3
        ON CONFLICT (app_id, product_key, status, spread) DO UPDATE SET n = c.n + excluded.n;
        INSERT INTO registry.child_count AS c (parent_key, spread, n)
        SELECT parent_key, at, sum(d) FROM (SELECT parent_key, 1 AS d FROM new_rows
                                            UNION ALL SELECT parent_key, -1 FROM old_rows) x
        WHERE parent_key IS NOT NULL GROUP BY 1 HAVING sum(d) <> 0 ORDER BY 1
        ON CONFLICT (parent_key, spread) DO UPDATE SET n = c.n + excluded.n;
    ELSE
        INSERT INTO registry.device_count AS c (app_id, product_key, status, spread, n)
        SELECT app_id, product_key, registry.shown_status(frozen, status), at,
               CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
        FROM changed GROUP BY 1, 2, 3 ORDER BY 1, 2, 3
        ON CONFLICT (app_id, product_key, status, spread) DO UPDATE SET n = c.n + excluded.n;
        INSERT INTO registry.child_count AS c (parent_key, spread, n)
        SELECT parent_key, at, CASE TG_OP WHEN 'INSERT' THEN count(*) ELSE -count(*) END
        FROM changed WHERE parent_key IS NOT NULL GROUP BY 1 ORDER BY 1
        ON CONFLICT (parent_key, spread) DO UPDATE SET n = c.n + excluded.n;
    END IF;
    RETURN NULL;
END $$;

-- What went with a product or a gateway.
CREATE FUNCTION registry.forget_counts() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM registry.device_count c USING gone g WHERE c.product_key = g.product_key AND c.app_id = g.app_id;
    RETURN NULL;
END $$;
CREATE FUNCTION registry.forget_children() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    DELETE FROM registry.child_count WHERE parent_key = OLD.device_key;
    RETURN NULL;
END $$;

CREATE TRIGGER count_inserted AFTER INSERT ON registry.device REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_devices();
CREATE TRIGGER count_deleted AFTER DELETE ON registry.device REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_devices();
CREATE TRIGGER count_updated AFTER UPDATE ON registry.device REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_devices();
CREATE TRIGGER forget_counts AFTER DELETE ON registry.product REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION registry.forget_counts();
CREATE TRIGGER forget_children AFTER DELETE ON registry.device FOR EACH ROW WHEN (OLD.depth < 2)
    EXECUTE FUNCTION registry.forget_children();

INSERT INTO registry.device_count (app_id, product_key, status, spread, n)
    SELECT app_id, product_key, registry.shown_status(frozen, status), 0, count(*) FROM registry.device GROUP BY 1, 2, 3;
INSERT INTO registry.child_count (parent_key, spread, n)
    SELECT parent_key, 0, count(*) FROM registry.device WHERE parent_key IS NOT NULL GROUP BY 1;

-- Wishes of the registration, and defaults of the model, are the first desired values of the shadow: in the same
-- transaction, though the shadow is uplink-processor's.
CREATE FUNCTION registry.first_desired() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO data.shadow (device_key, service_id, desired, desired_time, version)
    SELECT NEW.device_key, w ->> 'service_id', w -> 'desired',
           to_char(NEW.created AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'), 0
    FROM jsonb_array_elements(NEW.initial_desired) w;
    RETURN NULL;
END $$;
CREATE TRIGGER first_desired AFTER INSERT ON registry.device FOR EACH ROW WHEN (NEW.initial_desired IS NOT NULL)
    EXECUTE FUNCTION registry.first_desired();

-- A space is empty only when no rule forwards from it either.
CREATE VIEW rule.space_view AS SELECT app_id, rule_id FROM rule.rule WHERE app_id IS NOT NULL;
GRANT USAGE ON SCHEMA rule TO registry;
GRANT SELECT ON rule.space_view TO registry;

INSERT INTO public.schema_migration (version, name) VALUES (10, 'registry_core');
