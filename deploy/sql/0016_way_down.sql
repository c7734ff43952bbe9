-- 0016_way_down.sql: what is asked of devices live, what waits for them, and how each came to its end

SET LOCAL lock_timeout = '3s';
ALTER TABLE command.command ADD COLUMN kind text NOT NULL DEFAULT 'command' CHECK (kind IN ('command', 'set', 'get'));

GRANT SELECT ON registry.app_view TO command;

-- Messages wait for devices that are away. no: the order in which they were taken. parked: its device is away; is looked at
-- when that comes back, or when its time is over. wakes: how often that happened. kept: not only sent at once.
ALTER TABLE command.message
    ADD COLUMN no        bigserial,
    ADD COLUMN kept      boolean NOT NULL DEFAULT false,
    ADD COLUMN parked    boolean NOT NULL DEFAULT false,
    ADD COLUMN wakes     bigint NOT NULL DEFAULT 0,
    ADD COLUMN replaced  boolean NOT NULL DEFAULT false,
    ADD COLUMN expires   timestamptz NOT NULL DEFAULT now() + interval '1 minute',
    ADD COLUMN due       timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN delivered timestamptz;
DROP INDEX command.message_pending;
CREATE INDEX message_heads ON command.message (root_key, no) WHERE status = 'PENDING' AND NOT parked;
CREATE INDEX message_overdue ON command.message (partition, expires) WHERE status = 'PENDING' AND parked;
CREATE INDEX message_waiting ON command.message (root_key) WHERE status = 'PENDING';
CREATE INDEX message_parked ON command.message (device_key, no) WHERE status = 'PENDING' AND parked;

CREATE TABLE command.async_command (
    command_id    text PRIMARY KEY,
    no            bigserial,
    record_id     text    NOT NULL, -- of paging
    device_key    bigint  NOT NULL,
    device_id     text    NOT NULL,
    root_key      bigint  NOT NULL,
    root_id       text    NOT NULL, -- the directly connected device
    partition     int     NOT NULL,
    service_id    text,
    command_name  text,
    paras         text    NOT NULL,
    send_strategy text    NOT NULL CHECK (send_strategy IN ('immediately', 'delay')),
    expire_time   int     NOT NULL, -- seconds
    topic         text    NOT NULL,
    payload       bytea   NOT NULL,
    status        text    NOT NULL DEFAULT 'PENDING' CHECK (status IN ('PENDING', 'SENT', 'DELIVERED', 'SUCCESSFUL',
                                                                       'FAILED', 'TIMEOUT', 'EXPIRED', 'CANCELED')),
    error_code    text,
    error_msg     text,
    attempts      int     NOT NULL DEFAULT 0,
    parked        boolean NOT NULL DEFAULT false,
    wakes         bigint  NOT NULL DEFAULT 0,
    expires       timestamptz NOT NULL,
    due           timestamptz NOT NULL DEFAULT now(),
    created       timestamptz NOT NULL,
    written       timestamptz, -- sent_time
    delivered     timestamptz,
    answered      timestamptz, -- response_time
    finished      timestamptz,
    result        text -- the device's answer, JSON
);
CREATE INDEX async_heads ON command.async_command (root_key, no) WHERE status IN ('PENDING', 'SENT') AND NOT parked;
CREATE INDEX async_overdue ON command.async_command (partition, expires) WHERE status IN ('PENDING', 'SENT') AND parked;
CREATE INDEX async_waiting ON command.async_command (root_key) WHERE status IN ('PENDING', 'SENT');
CREATE INDEX async_of_device ON command.async_command (device_key, record_id);
CREATE INDEX async_by_age ON command.async_command (created);

-- Answers of devices, kept in the transaction of the EVENT reader until the owner of the command has taken them in.
CREATE TABLE command.async_answer (
    no         bigserial PRIMARY KEY,
    command_id text   NOT NULL,
    partition  int    NOT NULL,
    at_ms      bigint NOT NULL,
    body       text -- NULL: not UTF-8
);
CREATE INDEX async_answer_by_partition ON command.async_answer (partition, no);

INSERT INTO public.schema_migration (version, name) VALUES (16, 'way_down');
