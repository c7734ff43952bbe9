-- device-registry: resource spaces, products with their models, devices, sessions.
-- Keys (device_key, product_key, session_no) come from sequences and are never used again.

CREATE SEQUENCE registry.device_key;
CREATE SEQUENCE registry.product_key;
CREATE SEQUENCE registry.session_no;

CREATE TABLE registry.app (
    app_id      text PRIMARY KEY,
    app_name    text NOT NULL CONSTRAINT app_name_taken UNIQUE,
    default_app boolean NOT NULL DEFAULT false,
    created     timestamptz NOT NULL DEFAULT now()
);
CREATE UNIQUE INDEX app_one_default ON registry.app (default_app) WHERE default_app;

CREATE TABLE registry.product (
    product_key          bigint PRIMARY KEY,
    record_id            text NOT NULL UNIQUE,
    app_id               text NOT NULL REFERENCES registry.app,
    product_id           text NOT NULL,
    name                 text NOT NULL,
    device_type          text NOT NULL,
    protocol_type        text NOT NULL,
    data_format          text NOT NULL,
    manufacturer_name    text,
    industry             text,
    description          text,
    service_capabilities jsonb NOT NULL,
    version              bigint NOT NULL DEFAULT 1,
    created              timestamptz NOT NULL,
    updated              timestamptz NOT NULL,
    CONSTRAINT product_taken UNIQUE (product_id, app_id)
);

-- root_id: the directly connected device that this one's facts travel with; itself at depth 0.
CREATE TABLE registry.device (
    device_key            bigint PRIMARY KEY,
    record_id             text NOT NULL UNIQUE,
    device_id             text NOT NULL CONSTRAINT device_taken UNIQUE,
    node_id               text NOT NULL,
    unique_node_id        text CONSTRAINT node_taken UNIQUE, -- CoAP: the node id is an IMEI
    device_name           text,
    description           text,
    extension_info        jsonb,
    initial_desired       jsonb,
    app_id                text NOT NULL REFERENCES registry.app,
    product_key           bigint NOT NULL CONSTRAINT device_product REFERENCES registry.product,
    parent_key            bigint CONSTRAINT device_parent REFERENCES registry.device,
    root_id               text NOT NULL,
    depth                 int NOT NULL CHECK (depth BETWEEN 0 AND 2),
    partition             int NOT NULL,
    auth_type             text NOT NULL CHECK (auth_type IN ('SECRET', 'CERTIFICATES')),
    secret                text, -- sealed, as is the next
    secondary_secret      text,
    fingerprint           text,
    secondary_fingerprint text,
    secure_access         boolean NOT NULL DEFAULT false,
    timeout_s             int NOT NULL DEFAULT 0,
    auth_version          bigint NOT NULL DEFAULT 1, -- grows with each change of what a login is checked against
    frozen                boolean NOT NULL DEFAULT false,
    status                text NOT NULL DEFAULT 'INACTIVE'
                          CHECK (status IN ('ONLINE', 'OFFLINE', 'ABNORMAL', 'INACTIVE')),
    status_session        bigint NOT NULL DEFAULT 0, -- session that the status speaks of
    active_time           timestamptz,
    connection_status_update_time timestamptz,
    fw_version            text,
    sw_version            text,
    device_sdk_version    text,
    version               bigint NOT NULL DEFAULT 1,
    created               timestamptz NOT NULL,
    updated               timestamptz NOT NULL
);
CREATE INDEX device_by_product ON registry.device (product_key, record_id);
CREATE INDEX device_by_parent ON registry.device (parent_key) WHERE parent_key IS NOT NULL;
CREATE INDEX device_by_timeout ON registry.device (partition)
    WHERE timeout_s > 0 AND active_time IS NULL AND parent_key IS NULL;
CREATE INDEX device_by_node ON registry.device (node_id);
CREATE INDEX device_by_name ON registry.device (device_name) WHERE device_name IS NOT NULL;

CREATE TABLE registry.device_tombstone (
    device_key  bigint PRIMARY KEY,
    device_id   text NOT NULL,
    product_key bigint NOT NULL,
    app_id      text NOT NULL,
    created     timestamptz NOT NULL,
    deleted     timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX device_tombstone_by_id ON registry.device_tombstone (device_id, deleted);

-- No reference to device: a session outlives its device until its gateway has been told.
CREATE TABLE registry.session (
    device_key     bigint PRIMARY KEY,
    session_no     bigint NOT NULL,
    gateway        text NOT NULL,
    device_id      text NOT NULL,
    product_key    bigint NOT NULL,
    partition      int NOT NULL,
    client         text NOT NULL,
    peer           text NOT NULL,
    opened         timestamptz NOT NULL DEFAULT now(),
    old_gateway    text,
    old_session_no bigint,
    lost           timestamptz -- its end was put into UPLINK because the gateway is gone
);
CREATE INDEX session_by_gateway ON registry.session (gateway, partition) WHERE lost IS NULL;

CREATE TABLE registry.position (
    log            text NOT NULL,
    partition      int NOT NULL,
    seq            bigint NOT NULL DEFAULT 0,
    stream_created text,
    trim           bigint NOT NULL DEFAULT 0,
    suspect        bigint,
    suspect_tries  int NOT NULL DEFAULT 0,
    totals         bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0}',
    PRIMARY KEY (log, partition)
);
CREATE TABLE registry.outbox (
    id        bigserial PRIMARY KEY,
    partition int NOT NULL,
    event     bytea NOT NULL
);
CREATE INDEX outbox_by_partition ON registry.outbox (partition, id);
CREATE TABLE registry.quarantine (
    id        bigserial PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    log       text,
    partition int,
    seq       bigint,
    reason    text,
    data      bytea
);

-- What other daemons may read. gateway_id here is the directly connected device: where a session is.
CREATE VIEW registry.device_view AS
SELECT d.device_key, d.device_id, d.node_id, d.device_name, d.app_id, d.product_key, p.product_id,
       d.root_id AS gateway_id, d.partition,
       CASE WHEN d.frozen THEN 'FROZEN' ELSE d.status END AS status, d.initial_desired
FROM registry.device d JOIN registry.product p USING (product_key);
CREATE VIEW registry.product_view AS
SELECT product_key, product_id, app_id, name, service_capabilities, updated FROM registry.product;
CREATE VIEW registry.session_view AS
SELECT device_key, session_no, gateway, opened FROM registry.session WHERE lost IS NULL;

GRANT USAGE ON SCHEMA registry TO data, command, rule;
GRANT SELECT ON registry.device_view, registry.product_view, registry.session_view
    TO data, command, rule;

INSERT INTO public.schema_migration (version, name) VALUES (3, 'registry');
