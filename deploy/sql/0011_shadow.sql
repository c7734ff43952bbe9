-- 0011_shadow.sql: desired values: set by applications, told to devices when they are online

SET LOCAL lock_timeout = '3s';

CREATE INDEX shadow_desired ON data.shadow (device_key) WHERE desired <> '{}';

-- Sets desired values of services, all or none. versions: NULL, or what the service's version must be. A wish {} removes
-- all of a service, a value null removes one. Services come in the order of their ids, so that two calls wait in line.
CREATE FUNCTION data.set_desired(k bigint, services text[], wishes text[], versions bigint[], at text)
    RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    found bigint;
    wish jsonb;
BEGIN
    FOR i IN 1 .. cardinality(services) LOOP
        wish := wishes[i]::jsonb;
        INSERT INTO data.shadow (device_key, service_id) VALUES (k, services[i]) ON CONFLICT DO NOTHING;
        SELECT version INTO found FROM data.shadow WHERE device_key = k AND service_id = services[i] FOR UPDATE;
        IF versions[i] <> found THEN
            RAISE EXCEPTION SQLSTATE 'CW409' USING MESSAGE = 'shadow version', DETAIL = found, HINT = services[i];
        END IF;
        UPDATE data.shadow SET version = version + 1, desired_time = at,
            desired = CASE WHEN wish = '{}' THEN '{}' ELSE
                (SELECT coalesce(jsonb_object_agg(key, value) FILTER (WHERE value <> 'null'), '{}')
                 FROM jsonb_each(desired || wish)) END
        WHERE device_key = k AND service_id = services[i];
    END LOOP;
END $$;

-- What command-dispatcher tells devices.
CREATE VIEW data.desired_view AS
    SELECT device_key, service_id, desired, reported, version FROM data.shadow WHERE desired <> '{}';
GRANT SELECT ON data.desired_view TO command;
CREATE VIEW registry.child_view AS SELECT device_key, root_id FROM registry.device WHERE depth > 0;
GRANT SELECT ON registry.child_view TO command;

-- Devices that are to be told; a later reason takes the place of an earlier one.
CREATE TABLE command.desired (
    device_key bigint PRIMARY KEY,
    partition  int    NOT NULL,
    due        bigserial NOT NULL
) WITH (fillfactor = 50);
CREATE INDEX desired_by_partition ON command.desired (partition, due);

-- NB-IoT devices sleep: silent for 25 hours they are ABNORMAL, for 49 hours OFFLINE.
ALTER TABLE data.device_state DROP CONSTRAINT device_state_status_check;
ALTER TABLE data.device_state ADD CONSTRAINT device_state_status_check
    CHECK (status IN ('ONLINE', 'ABNORMAL', 'OFFLINE')) NOT VALID;

INSERT INTO public.schema_migration (version, name) VALUES (11, 'shadow');
