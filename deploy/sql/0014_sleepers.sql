-- 0014_sleepers.sql: devices that sleep for hours (NB-IoT, LwM2M), for their status

SET LOCAL lock_timeout = '3s';
CREATE INDEX device_sleepers ON registry.device (partition) WHERE unique_node_id IS NOT NULL;
CREATE VIEW registry.sleeper_view AS
SELECT d.device_key, d.device_id, d.node_id, d.app_id, d.product_key, p.product_id, d.root_id AS gateway_id, d.partition
FROM registry.device d JOIN registry.product p USING (product_key) WHERE d.unique_node_id IS NOT NULL;
GRANT SELECT ON registry.sleeper_view TO data;

INSERT INTO public.schema_migration (version, name) VALUES (14, 'sleepers');
