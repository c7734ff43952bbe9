-- rule-engine: forwarding rules, their actions, the CAs of push targets.

-- The scope of a rule is a space; which ones there are is device-registry's to say.
CREATE VIEW registry.app_view AS SELECT app_id, app_name, default_app FROM registry.app;
GRANT SELECT ON registry.app_view TO rule;

CREATE TABLE rule.rule (
    rule_id     text PRIMARY KEY,
    record_id   text NOT NULL UNIQUE,
    rule_name   text,
    description text,
    resource    text NOT NULL,
    event       text NOT NULL,
    app_type    text NOT NULL CHECK (app_type IN ('GLOBAL', 'APP')),
    app_id      text CHECK ((app_id IS NOT NULL) = (app_type = 'APP')),
    active      boolean NOT NULL DEFAULT false,
    created     timestamptz NOT NULL DEFAULT now(),
    updated     timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE rule.certificate (
    cert_id           text PRIMARY KEY, -- is the record id of lists, too
    name              text,
    content           text NOT NULL,    -- one PEM certificate
    subject           text NOT NULL,
    expires           timestamptz NOT NULL,
    fingerprint       text NOT NULL,
    check_common_name boolean NOT NULL,
    created           timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE rule.action (
    action_id        text PRIMARY KEY,
    record_id        text NOT NULL UNIQUE,
    rule_id          text NOT NULL REFERENCES rule.rule ON DELETE CASCADE,
    app_id           text,
    channel          text NOT NULL,
    url              text NOT NULL,
    cert_id          text CONSTRAINT action_cert REFERENCES rule.certificate,
    cn_name          text,
    sni_enable       boolean NOT NULL,
    signature_enable boolean NOT NULL,
    token            text, -- sealed with the key that push-notifier has, too
    created          timestamptz NOT NULL DEFAULT now(),
    updated          timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX action_by_rule ON rule.action (rule_id, record_id);
CREATE INDEX action_by_cert ON rule.action (cert_id) WHERE cert_id IS NOT NULL;

CREATE TABLE rule.position (
    log            text NOT NULL,
    partition      int NOT NULL,
    seq            bigint NOT NULL DEFAULT 0,
    stream_created text,
    trim           bigint NOT NULL DEFAULT 0,
    suspect        bigint,
    suspect_tries  int NOT NULL DEFAULT 0,
    totals         bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0}', -- events, matched, owed, refused
    PRIMARY KEY (log, partition)
);
CREATE TABLE rule.outbox (
    id        bigserial PRIMARY KEY,
    partition int NOT NULL,
    event     bytea NOT NULL
);
CREATE INDEX outbox_by_partition ON rule.outbox (partition, id);
CREATE TABLE rule.quarantine (
    id        bigserial PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    log       text,
    partition int,
    seq       bigint,
    reason    text,
    data      bytea
);

CREATE VIEW rule.certificate_view AS
SELECT cert_id, content, expires, check_common_name FROM rule.certificate;
CREATE VIEW rule.action_view AS
SELECT a.action_id, a.rule_id, r.active, a.channel, a.url, a.cn_name, a.sni_enable,
       a.signature_enable, a.token, a.cert_id, c.content AS ca_pem, c.check_common_name
FROM rule.action a JOIN rule.rule r USING (rule_id) LEFT JOIN rule.certificate_view c USING (cert_id);
GRANT USAGE ON SCHEMA rule TO push;
GRANT SELECT ON rule.action_view, rule.certificate_view TO push;

INSERT INTO public.schema_migration (version, name) VALUES (6, 'rule');
