-- 0026_product_topics.sql: custom topics that products define

SET LOCAL lock_timeout = '3s';

-- topic: what stands behind $oc/devices/{device_id}/user/.
CREATE TABLE registry.product_topic (
    topic_id    text NOT NULL, -- a record id
    product_key bigint NOT NULL REFERENCES registry.product ON DELETE CASCADE,
    topic       text NOT NULL,
    rights      text NOT NULL CHECK (rights IN ('PUBLISH', 'SUBSCRIBE', 'BOTH')),
    description text,
    created     timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (product_key, topic)
);

-- A product has 50 at most: all gateways keep them. The row that would be one too many is left out; the lock lets the
-- second of two see the first.
CREATE FUNCTION registry.limit_topics() RETURNS trigger LANGUAGE plpgsql AS $$
DECLARE
    others bigint;
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(NEW.product_key::text, 26));
    SELECT count(*) INTO others FROM registry.product_topic WHERE product_key = NEW.product_key AND topic <> NEW.topic;
    RETURN CASE WHEN others < 50 THEN NEW END;
END $$;
CREATE TRIGGER limit_topics BEFORE INSERT ON registry.product_topic FOR EACH ROW EXECUTE FUNCTION registry.limit_topics();

CREATE VIEW registry.product_topic_view AS SELECT product_key, topic, rights FROM registry.product_topic;
GRANT SELECT ON registry.product_topic_view TO command;

INSERT INTO public.schema_migration (version, name) VALUES (26, 'product_topics');
