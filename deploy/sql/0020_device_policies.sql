-- 0020_device_policies.sql: which topics outside $oc devices may use

SET LOCAL lock_timeout = '3s';

-- Of the form of the ids that daemons make: seconds first, then microseconds, so that they are in order of time.
CREATE FUNCTION registry.record_id() RETURNS text LANGUAGE sql VOLATILE SET search_path = pg_catalog AS $$
    SELECT lpad(to_hex(us / 1000000), 8, '0') || lpad(to_hex(us % 1000000), 8, '0')
        || substr(replace(gen_random_uuid()::text, '-', ''), 1, 8)
    FROM (SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS us) now $$;

-- of_platform: was made with the space, and does not count.
CREATE TABLE registry.device_policy (
    policy_id   text PRIMARY KEY DEFAULT registry.record_id(),
    app_id      text NOT NULL REFERENCES registry.app ON DELETE CASCADE,
    policy_name text NOT NULL,
    statement   json NOT NULL, -- as it was written
    of_platform boolean NOT NULL DEFAULT false,
    created     timestamptz NOT NULL DEFAULT now(),
    updated     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX device_policy_by_app ON registry.device_policy (app_id, policy_id);

-- What a policy holds for: a device, a product, or its space.
CREATE TABLE registry.policy_target (
    policy_id   text NOT NULL REFERENCES registry.device_policy ON DELETE CASCADE,
    target_type text NOT NULL CHECK (target_type IN ('device', 'product', 'app')),
    target_id   text NOT NULL,
    device_key  bigint REFERENCES registry.device ON DELETE CASCADE,
    product_key bigint REFERENCES registry.product ON DELETE CASCADE,
    record_id   text NOT NULL DEFAULT registry.record_id(),
    PRIMARY KEY (policy_id, target_type, target_id),
    CHECK ((target_type = 'device') = (device_key IS NOT NULL) AND (target_type = 'product') = (product_key IS NOT NULL))
);
CREATE INDEX policy_target_by_device ON registry.policy_target (device_key) WHERE device_key IS NOT NULL;
CREATE INDEX policy_target_by_product ON registry.policy_target (product_key) WHERE product_key IS NOT NULL;
CREATE INDEX policy_target_in_order ON registry.policy_target (policy_id, record_id);
CREATE INDEX policy_target_of_type ON registry.policy_target (policy_id, target_type, record_id);

-- A target has five policies at most, a policy 10,000 products: all gateways keep those. The row that would be one too
-- many is left out. The lock puts two that bind the same target into a line, so that the second sees the first.
CREATE FUNCTION registry.limit_targets() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    others bigint := 0;
    products bigint := 0;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.target_type || ' ' || NEW.target_id, 20));
    IF NEW.target_type = 'device' THEN
        SELECT count(*) INTO others FROM registry.policy_target
        WHERE device_key = NEW.device_key AND policy_id <> NEW.policy_id;
    ELSIF NEW.target_type = 'product' THEN
        SELECT count(*) INTO others FROM registry.policy_target
        WHERE product_key = NEW.product_key AND policy_id <> NEW.policy_id;
        SELECT count(*) INTO products FROM registry.policy_target
        WHERE policy_id = NEW.policy_id AND target_type = 'product' AND target_id <> NEW.target_id;
    END IF;
    RETURN CASE WHEN others < 5 AND products < 10000 THEN NEW END;
END $$;
CREATE TRIGGER limit_targets BEFORE INSERT ON registry.policy_target FOR EACH ROW
    EXECUTE FUNCTION registry.limit_targets();

-- A new space lets its devices use every topic outside $oc.
CREATE FUNCTION registry.first_policy() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    made text;
BEGIN
    INSERT INTO registry.device_policy (app_id, policy_name, of_platform, statement)
    VALUES (NEW.app_id, 'system_default_policy', true, '[{"effect":"ALLOW","actions":["iotda:devices:publish",'
            '"iotda:devices:subscribe"],"resources":["topic:*"]}]')
    RETURNING policy_id INTO made;
    INSERT INTO registry.policy_target (policy_id, target_type, target_id) VALUES (made, 'app', NEW.app_id);
    RETURN NULL;
END $$;
CREATE TRIGGER first_policy AFTER INSERT ON registry.app FOR EACH ROW EXECUTE FUNCTION registry.first_policy();

WITH made AS (
    INSERT INTO registry.device_policy (app_id, policy_name, of_platform, statement)
    SELECT app_id, 'system_default_policy', true, '[{"effect":"ALLOW","actions":["iotda:devices:publish",'
           '"iotda:devices:subscribe"],"resources":["topic:*"]}]' FROM registry.app
    RETURNING policy_id, app_id)
INSERT INTO registry.policy_target (policy_id, target_type, target_id) SELECT policy_id, 'app', app_id FROM made;

INSERT INTO public.schema_migration (version, name) VALUES (20, 'device_policies');
