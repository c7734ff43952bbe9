-- 0028_undelete.sql: a device that was deleted can be brought back for some days

SET LOCAL lock_timeout = '3s';

-- All that went with the row. Who deleted it, and why, is in device_tombstone, which stays.
CREATE TABLE registry.deleted_device (
    device_key  bigint PRIMARY KEY,
    record_id   text NOT NULL UNIQUE DEFAULT registry.record_id(), -- of the deletion
    device_id   text NOT NULL,
    app_id      text NOT NULL REFERENCES registry.app ON DELETE CASCADE,
    deleted     timestamptz NOT NULL DEFAULT now(),
    device      jsonb NOT NULL, -- the row, its secrets sealed as they were
    tags        jsonb NOT NULL,
    groups      text[] NOT NULL,
    policies    text[] NOT NULL
);
CREATE INDEX deleted_device_by_id ON registry.deleted_device (device_id, record_id);
CREATE INDEX deleted_device_by_app ON registry.deleted_device (app_id, record_id);
CREATE INDEX deleted_device_by_time ON registry.deleted_device (deleted);

-- Whichever way a device is deleted. Before: what refers to it is still there.
CREATE FUNCTION registry.keep_deleted() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO registry.deleted_device (device_key, device_id, app_id, device, tags, groups, policies)
    VALUES (OLD.device_key, OLD.device_id, OLD.app_id, to_jsonb(OLD),
        COALESCE((SELECT jsonb_agg(jsonb_build_object('tag_key', tag_key, 'tag_value', tag_value))
                  FROM registry.device_tag WHERE device_key = OLD.device_key), '[]'),
        ARRAY(SELECT m.group_id FROM registry.group_member m JOIN registry.device_group g USING (group_id)
              WHERE m.device_key = OLD.device_key AND g.rule IS NULL),
        ARRAY(SELECT policy_id FROM registry.policy_target WHERE device_key = OLD.device_key))
    ON CONFLICT (device_key) DO NOTHING;
    RETURN OLD;
END $$;
CREATE TRIGGER keep_deleted BEFORE DELETE ON registry.device FOR EACH ROW EXECUTE FUNCTION registry.keep_deleted();

-- The shadow of a device that comes back is there already.
CREATE OR REPLACE FUNCTION registry.first_desired() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
BEGIN
    INSERT INTO data.shadow (device_key, service_id, desired, desired_time, version)
    SELECT NEW.device_key, w ->> 'service_id', w -> 'desired',
           to_char(NEW.created AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'), 0
    FROM jsonb_array_elements(NEW.initial_desired) w ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;

-- For `why` of a device that is not there any more.
CREATE VIEW registry.deleted_view AS
SELECT t.device_id, t.app_id, t.deleted, t.reason, t.deleted_by, x.device_key IS NOT NULL AS kept
FROM registry.device_tombstone t LEFT JOIN registry.deleted_device x USING (device_key);
GRANT SELECT ON registry.deleted_view TO data;

INSERT INTO public.schema_migration (version, name) VALUES (28, 'undelete');
