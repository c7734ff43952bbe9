-- command-dispatcher: receipts of synchronous commands, messages to devices.

-- One row per synchronous command: how far it came, and when. stage tells what is known of it.
CREATE TABLE command.command (
    command_id   text PRIMARY KEY,
    device_key   bigint NOT NULL,
    device_id    text NOT NULL,
    root_id      text NOT NULL, -- the directly connected device
    instance     text NOT NULL, -- of command-dispatcher, where the caller waits
    service_id   text,
    command_name text,
    paras        text NOT NULL,
    status       text NOT NULL DEFAULT 'SENT'
                 CHECK (status IN ('SENT', 'SUCCESSFUL', 'FAILED', 'TIMEOUT')),
    stage        text NOT NULL DEFAULT 'accepted',
    gateway      text NOT NULL,
    session_no   bigint NOT NULL,
    created      timestamptz NOT NULL,
    written      timestamptz,
    acknowledged timestamptz,
    answered     timestamptz,
    finished     timestamptz,
    response     text
);
CREATE INDEX command_by_device ON command.command (device_key, created);
CREATE INDEX command_by_age ON command.command (created);

CREATE TABLE command.message (
    device_key     bigint NOT NULL,
    message_id     text NOT NULL,
    device_id      text NOT NULL,
    root_key       bigint NOT NULL,
    root_id        text NOT NULL,
    partition      int NOT NULL,
    name           text,
    message        text NOT NULL, -- JSON as the application gave it
    encoding       text NOT NULL,
    payload_format text NOT NULL,
    topic          text NOT NULL, -- complete
    system_topic   boolean NOT NULL,
    properties     text,
    payload        bytea NOT NULL, -- what the device gets
    status         text NOT NULL DEFAULT 'PENDING'
                   CHECK (status IN ('PENDING', 'DELIVERED', 'FAILED', 'TIMEOUT')),
    error_code     text,
    error_msg      text,
    attempts       int NOT NULL DEFAULT 0,
    created        timestamptz NOT NULL,
    written        timestamptz,
    finished       timestamptz,
    PRIMARY KEY (device_key, message_id)
);
CREATE INDEX message_pending ON command.message (partition, created) WHERE status = 'PENDING';
CREATE INDEX message_by_age ON command.message (created);

CREATE TABLE command.position (
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
CREATE TABLE command.outbox (
    id        bigserial PRIMARY KEY,
    partition int NOT NULL,
    event     bytea NOT NULL
);
CREATE INDEX outbox_by_partition ON command.outbox (partition, id);
CREATE TABLE command.quarantine (
    id        bigserial PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    log       text,
    partition int,
    seq       bigint,
    reason    text,
    data      bytea
);

INSERT INTO public.schema_migration (version, name) VALUES (5, 'command');
