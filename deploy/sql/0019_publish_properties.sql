-- 0019_publish_properties.sql: what a device that speaks MQTT 5 gives along with a report or message

SET LOCAL lock_timeout = '3s';
-- JSON; NULL: nothing
ALTER TABLE data.history ADD COLUMN properties text;

INSERT INTO public.schema_migration (version, name) VALUES (19, 'publish_properties');
