-- 0024_device_certificates.sql: the certificates of devices, templates by which they register themselves, and who was not let in

SET LOCAL lock_timeout = '3s';

CREATE TABLE registry.provisioning_template (
    template_id   text PRIMARY KEY,
    template_name text NOT NULL CONSTRAINT template_name_taken UNIQUE,
    description   text,
    template_body json NOT NULL, -- as it was written
    created       timestamptz NOT NULL DEFAULT now(),
    updated       timestamptz NOT NULL DEFAULT now()
);

-- project_id: whose audit log tells what this CA has registered.
ALTER TABLE registry.ca_certificate
    ADD COLUMN provision_enable boolean NOT NULL DEFAULT false,
    ADD COLUMN template_id text CONSTRAINT ca_template REFERENCES registry.provisioning_template,
    ADD COLUMN project_id text NOT NULL DEFAULT '';
-- A certificate must not lead to two spaces.
CREATE UNIQUE INDEX ca_provisions_once ON registry.ca_certificate (fingerprint) WHERE provision_enable;
CREATE INDEX ca_by_template ON registry.ca_certificate (template_id) WHERE template_id IS NOT NULL;

CREATE TABLE registry.device_certificate (
    certificate_id text PRIMARY KEY,
    app_id         text NOT NULL REFERENCES registry.app ON DELETE CASCADE,
    fingerprint    text NOT NULL, -- SHA-256, as is the next of SHA-1
    sha1           text NOT NULL,
    common_name    text COLLATE "C" NOT NULL,
    content        text NOT NULL, -- PEM
    status         text NOT NULL DEFAULT 'ACTIVE' CHECK (status IN ('ACTIVE', 'INACTIVE')),
    expiry         timestamptz NOT NULL,
    created        timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT device_certificate_once UNIQUE (app_id, fingerprint)
);
CREATE INDEX device_certificate_by_name ON registry.device_certificate (common_name, certificate_id);
CREATE INDEX device_certificate_by_fingerprint ON registry.device_certificate (fingerprint);

-- Their number, since there may be as many as devices.
CREATE TABLE registry.device_certificate_count (
    one boolean PRIMARY KEY DEFAULT true CHECK (one),
    n   bigint NOT NULL DEFAULT 0
);
INSERT INTO registry.device_certificate_count DEFAULT VALUES;
CREATE FUNCTION registry.count_device_certificates() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE registry.device_certificate_count
    SET n = n + (SELECT count(*) FROM changed) * CASE TG_OP WHEN 'INSERT' THEN 1 ELSE -1 END
    WHERE EXISTS (SELECT FROM changed);
    RETURN NULL;
END $$;
CREATE TRIGGER count_inserted AFTER INSERT ON registry.device_certificate REFERENCING NEW TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_device_certificates();
CREATE TRIGGER count_deleted AFTER DELETE ON registry.device_certificate REFERENCING OLD TABLE AS changed
    FOR EACH STATEMENT EXECUTE FUNCTION registry.count_device_certificates();

-- Which devices use a certificate.
CREATE INDEX device_by_fingerprint ON registry.device (lower(fingerprint)) WHERE fingerprint IS NOT NULL;
CREATE INDEX device_by_second_fingerprint ON registry.device (lower(secondary_fingerprint))
    WHERE secondary_fingerprint IS NOT NULL;

-- Connections of which no device is known that could be asked why: the newest, one row for each reason and whom.
CREATE TABLE registry.refused_connection (
    subject     text PRIMARY KEY,
    record_id   text NOT NULL UNIQUE, -- grows with each time
    code        text NOT NULL,
    device_id   text NOT NULL,
    peer        text NOT NULL,
    common_name text NOT NULL,
    fingerprint text NOT NULL,
    server_name text NOT NULL,
    reason      text NOT NULL,
    next_step   text NOT NULL,
    times       bigint NOT NULL,
    first       timestamptz NOT NULL,
    last        timestamptz NOT NULL
);
CREATE INDEX refused_connection_by_device ON registry.refused_connection (device_id, record_id);

INSERT INTO public.schema_migration (version, name) VALUES (24, 'device_certificates');
