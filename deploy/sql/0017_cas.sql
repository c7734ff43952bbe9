-- 0017_cas.sql: CAs that the certificates of devices are checked against

SET LOCAL lock_timeout = '3s';
-- status: its owner has proven to have its key; without it admits nobody.
CREATE TABLE registry.ca_certificate (
    certificate_id text PRIMARY KEY,
    app_id         text NOT NULL REFERENCES registry.app,
    cn_name        text NOT NULL,
    owner          text NOT NULL,
    content        text NOT NULL, -- PEM
    fingerprint    text NOT NULL,
    status         boolean NOT NULL DEFAULT false,
    verify_code    text NOT NULL,
    created        timestamptz NOT NULL DEFAULT now(),
    effective      timestamptz NOT NULL,
    expiry         timestamptz NOT NULL,
    CONSTRAINT ca_certificate_once UNIQUE (app_id, fingerprint)
);

INSERT INTO public.schema_migration (version, name) VALUES (17, 'cas');
