-- 0022_tags_groups.sql: tags of devices, device groups and who is in them, indexes behind the search
--
-- While the indexes are built, device-registry of the release before waits with its changes.

SET LOCAL lock_timeout = '3s';

-- record_id is the device's: lists walk an index from their marker downwards. tag_value '': none.
CREATE TABLE registry.device_tag (
    device_key bigint NOT NULL REFERENCES registry.device ON DELETE CASCADE,
    record_id  text NOT NULL,
    tag_key    text NOT NULL,
    tag_value  text NOT NULL DEFAULT '',
    PRIMARY KEY (device_key, tag_key)
);
CREATE INDEX device_tag_by_key ON registry.device_tag (tag_key text_pattern_ops, tag_value text_pattern_ops, record_id);
CREATE INDEX device_tag_by_key_alone ON registry.device_tag (tag_key, record_id);
CREATE INDEX device_tag_by_value ON registry.device_tag (tag_value text_pattern_ops, record_id);

CREATE TABLE registry.device_group (
    group_id       text PRIMARY KEY, -- a record id
    app_id         text NOT NULL REFERENCES registry.app,
    name           text NOT NULL,
    description    text,
    super_group_id text CONSTRAINT group_parent REFERENCES registry.device_group,
    depth          int NOT NULL DEFAULT 1,
    rule           text, -- of a dynamic group; NULL: it is static
    members        int NOT NULL DEFAULT 0,
    filled_to      text, -- dynamic: devices with a lower record id have not been looked at yet; NULL: all have
    created        timestamptz NOT NULL DEFAULT now(),
    updated        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT group_name_taken UNIQUE (app_id, name)
);
CREATE INDEX device_group_by_parent ON registry.device_group (super_group_id) WHERE super_group_id IS NOT NULL;

CREATE TABLE registry.group_member (
    group_id   text NOT NULL REFERENCES registry.device_group,
    device_key bigint NOT NULL REFERENCES registry.device ON DELETE CASCADE,
    record_id  text NOT NULL, -- the device's
    PRIMARY KEY (group_id, record_id)
);
CREATE UNIQUE INDEX group_member_by_device ON registry.group_member (device_key, group_id);

CREATE FUNCTION registry.count_members() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry.device_group g SET members = g.members + CASE TG_OP WHEN 'INSERT' THEN c.n ELSE -c.n END
    FROM (SELECT group_id, count(*) AS n FROM changed GROUP BY 1 ORDER BY 1) c WHERE g.group_id = c.group_id;
    RETURN NULL;
END $$;
CREATE TRIGGER count_joined AFTER INSERT ON registry.group_member REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_members();
CREATE TRIGGER count_left AFTER DELETE ON registry.group_member REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_members();

-- Devices that a dynamic group may want to take in or let go: whoever changes one writes its key here, if there are
-- such groups; device-registry looks at them in the order of ids.
CREATE TABLE registry.device_touched (
    id         bigserial PRIMARY KEY,
    device_key bigint NOT NULL
);
CREATE INDEX device_group_dynamic ON registry.device_group (group_id) WHERE rule IS NOT NULL;

CREATE FUNCTION registry.touch_made() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.device_group WHERE rule IS NOT NULL) THEN
        INSERT INTO registry.device_touched (device_key) SELECT DISTINCT device_key FROM changed;
    END IF;
    RETURN NULL;
END $$;
CREATE FUNCTION registry.touch_changed() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF EXISTS (SELECT FROM registry.device_group WHERE rule IS NOT NULL) THEN
        INSERT INTO registry.device_touched (device_key) SELECT n.device_key FROM new_rows n JOIN old_rows o USING (device_key)
        WHERE (n.device_name, n.product_key, n.parent_key, n.frozen, n.status, n.fw_version, n.sw_version) IS DISTINCT FROM
              (o.device_name, o.product_key, o.parent_key, o.frozen, o.status, o.fw_version, o.sw_version);
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER touch_made AFTER INSERT ON registry.device REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.touch_made();
CREATE TRIGGER touch_changed AFTER UPDATE ON registry.device REFERENCING OLD TABLE AS old_rows NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION registry.touch_changed();
CREATE TRIGGER touch_tagged AFTER INSERT ON registry.device_tag REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.touch_made();
CREATE TRIGGER touch_retagged AFTER UPDATE ON registry.device_tag REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.touch_made();
CREATE TRIGGER touch_untagged AFTER DELETE ON registry.device_tag REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.touch_made();

CREATE INDEX device_node_prefix ON registry.device (node_id text_pattern_ops);
CREATE INDEX device_name_prefix ON registry.device (device_name text_pattern_ops) WHERE device_name IS NOT NULL;
CREATE INDEX device_by_fw ON registry.device (fw_version, record_id) WHERE fw_version IS NOT NULL;
CREATE INDEX device_by_sw ON registry.device (sw_version, record_id) WHERE sw_version IS NOT NULL;

INSERT INTO public.schema_migration (version, name) VALUES (22, 'tags_groups');
