-- 0032_erased.sql: what is known of a device goes when it cannot come back any more

SET LOCAL lock_timeout = '3s';

-- Its row of deleted_device goes when its days are over, with its space, or since it comes back: then it is there again
-- at the end of that statement. History goes by age, whosever it is.
CREATE FUNCTION registry.erase() RETURNS trigger LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    keys bigint[] := ARRAY(SELECT g.device_key FROM gone g
                           WHERE NOT EXISTS (SELECT FROM registry.device d WHERE d.device_key = g.device_key));
BEGIN
    DELETE FROM data.shadow WHERE device_key = ANY(keys);
    DELETE FROM data.device_state WHERE device_key = ANY(keys);
    DELETE FROM data.failure WHERE device_key = ANY(keys);
    DELETE FROM data.change WHERE device_key = ANY(keys);
    RETURN NULL;
END $$;
CREATE TRIGGER erase AFTER DELETE ON registry.deleted_device REFERENCING OLD TABLE AS gone
    FOR EACH STATEMENT EXECUTE FUNCTION registry.erase();

-- Of devices that went before they could come back.
CREATE TEMPORARY TABLE long_gone ON COMMIT DROP AS
SELECT t.device_key FROM registry.device_tombstone t
WHERE NOT EXISTS (SELECT FROM registry.deleted_device x WHERE x.device_key = t.device_key)
  AND NOT EXISTS (SELECT FROM registry.device d WHERE d.device_key = t.device_key);
DELETE FROM data.shadow s USING long_gone g WHERE s.device_key = g.device_key;
DELETE FROM data.device_state s USING long_gone g WHERE s.device_key = g.device_key;
DELETE FROM data.failure s USING long_gone g WHERE s.device_key = g.device_key;
DELETE FROM data.change s USING long_gone g WHERE s.device_key = g.device_key;

INSERT INTO public.schema_migration (version, name) VALUES (32, 'erased');
