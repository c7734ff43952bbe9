-- 0031_product_topics_told.sql: what logins are told of a product's topics, ready made

SET LOCAL lock_timeout = '3s';

-- topics: "Balarm Pup/x", the first letter of the rights before each topic, in order; NULL: the product defines none.
-- Made by each change, read by each login.
ALTER TABLE registry.product ADD COLUMN topics text;

CREATE FUNCTION registry.tell_topics() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    key bigint := COALESCE(NEW.product_key, OLD.product_key);
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(key::text, 26)); -- as limit_topics(): one change sees the other
    UPDATE registry.product SET topics = (SELECT string_agg(left(t.rights, 1) || t.topic, ' ' ORDER BY t.topic)
        FROM registry.product_topic t WHERE t.product_key = key) WHERE product_key = key;
    RETURN NULL;
END $$;
CREATE TRIGGER tell_topics AFTER INSERT OR UPDATE OR DELETE ON registry.product_topic
    FOR EACH ROW EXECUTE FUNCTION registry.tell_topics();

UPDATE registry.product p SET topics = (SELECT string_agg(left(t.rights, 1) || t.topic, ' ' ORDER BY t.topic)
    FROM registry.product_topic t WHERE t.product_key = p.product_key)
WHERE EXISTS (SELECT FROM registry.product_topic t WHERE t.product_key = p.product_key);

INSERT INTO public.schema_migration (version, name) VALUES (31, 'product_topics_told');
