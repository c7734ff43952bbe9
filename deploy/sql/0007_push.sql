-- push-notifier: its position in PUSH, and what waits there for its target.

CREATE TABLE push.position (
    log            text NOT NULL,
    partition      int NOT NULL,
    seq            bigint NOT NULL DEFAULT 0,
    stream_created text,
    trim           bigint NOT NULL DEFAULT 0,
    suspect        bigint,
    suspect_tries  int NOT NULL DEFAULT 0,
    -- owed, delivered, push_failed, push_expired, action_deleted
    totals         bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0}',
    PRIMARY KEY (log, partition)
);
CREATE TABLE push.outbox (
    id        bigserial PRIMARY KEY,
    partition int NOT NULL,
    event     bytea NOT NULL
);
CREATE INDEX outbox_by_partition ON push.outbox (partition, id);
CREATE TABLE push.quarantine (
    id        bigserial PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    log       text,
    partition int,
    seq       bigint,
    reason    text,
    data      bytea
);

-- Parked items. Order within (action, device) is that of the log; rows above the position are
-- read from the log again by a new owner, who deletes them first.
CREATE TABLE push.backlog (
    partition  int NOT NULL,
    seq        bigint NOT NULL,
    idx        int NOT NULL,
    rule_id    text NOT NULL,
    action_id  text NOT NULL,
    device_key bigint NOT NULL,
    bytes      int NOT NULL,
    push       bytea NOT NULL, -- packed Push
    attempts   int NOT NULL,
    spent_ms   bigint NOT NULL, -- of the retry window
    counted_ms bigint NOT NULL, -- up to when; 0: never tried
    due_ms     bigint NOT NULL, -- of the first of its lane; 0: at once
    parked_ms  bigint NOT NULL,
    PRIMARY KEY (partition, seq, idx)
);
CREATE INDEX backlog_by_lane ON push.backlog (partition, action_id, device_key, seq, idx);
CREATE INDEX backlog_by_age ON push.backlog (partition, parked_ms);
CREATE INDEX backlog_by_rule ON push.backlog (rule_id) INCLUDE (bytes);

INSERT INTO public.schema_migration (version, name) VALUES (7, 'push');
