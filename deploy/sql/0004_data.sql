-- 0004_data.sql: what devices said: state, shadow, history, why; the positions of uplink-processor

CREATE TABLE data.position (
    log            text     NOT NULL,
    partition      int      NOT NULL,
    seq            bigint   NOT NULL DEFAULT 0,
    stream_created text,
    trim           bigint   NOT NULL DEFAULT 0,
    suspect        bigint,
    suspect_tries  int      NOT NULL DEFAULT 0,
    -- stored, refused, unused, status, notices, refused by gateways, unknown devices, events
    totals         bigint[] NOT NULL DEFAULT '{0,0,0,0,0,0,0,0}',
    PRIMARY KEY (log, partition)
);
CREATE TABLE data.outbox (
    id        bigserial PRIMARY KEY,
    partition int   NOT NULL,
    event     bytea NOT NULL
);
CREATE INDEX outbox_partition ON data.outbox (partition, id);
CREATE TABLE data.quarantine (
    id        bigserial PRIMARY KEY,
    at        timestamptz NOT NULL DEFAULT now(),
    log       text,
    partition int,
    seq       bigint,
    reason    text,
    data      bytea
);
CREATE INDEX quarantine_at ON data.quarantine (at);

-- How many records ever went there, for the ledger: the rows themselves are deleted in time.
CREATE TABLE data.quarantined (
    log       text   NOT NULL,
    partition int    NOT NULL,
    n         bigint NOT NULL,
    PRIMARY KEY (log, partition)
);
CREATE FUNCTION data.count_quarantined() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO data.quarantined AS q (log, partition, n) VALUES (NEW.log, NEW.partition, 1)
    ON CONFLICT (log, partition) DO UPDATE SET n = q.n + 1;
    RETURN NULL;
END $$;
CREATE TRIGGER count_quarantined AFTER INSERT ON data.quarantine
    FOR EACH ROW EXECUTE FUNCTION data.count_quarantined();

CREATE TABLE data.gateway_batch (
    gateway   text        NOT NULL,
    partition int         NOT NULL,
    n         bigint      NOT NULL,
    seen      timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (gateway, partition)
);

-- One row per device that was ever heard of; times in ms since 1970.
CREATE TABLE data.device_state (
    device_key      bigint PRIMARY KEY,
    status          text   NOT NULL DEFAULT 'OFFLINE' CHECK (status IN ('ONLINE', 'OFFLINE')),
    session_no      bigint NOT NULL DEFAULT 0, -- an older session says nothing any more
    gateway         text,
    peer            text,
    since_ms        bigint,
    connected_ms    bigint,
    cause           text, -- of the last disconnection
    reports         bigint NOT NULL DEFAULT 0,
    last_report_ms  bigint,
    messages        bigint NOT NULL DEFAULT 0,
    last_message_ms bigint
) WITH (fillfactor = 70);

CREATE TABLE data.shadow (
    device_key    bigint NOT NULL,
    service_id    text   NOT NULL,
    reported      jsonb  NOT NULL DEFAULT '{}',
    reported_time text, -- yyyyMMdd'T'HHmmss'Z'
    desired       jsonb  NOT NULL DEFAULT '{}',
    desired_time  text,
    version       bigint NOT NULL DEFAULT 0,
    created_time  text   NOT NULL DEFAULT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD"T"HH24MISS"Z"'),
    PRIMARY KEY (device_key, service_id)
) WITH (fillfactor = 70);

-- One row per report or message, a table per received day. ord: order within a millisecond, from
-- the position in the log. topic is NULL for the system topic of its kind.
CREATE TABLE data.history (
    device_key  bigint NOT NULL,
    received_ms bigint NOT NULL,
    ord         bigint NOT NULL,
    kind        text   NOT NULL,
    topic       text,
    request_id  text   NOT NULL,
    body        text   NOT NULL,
    verdicts    text
) PARTITION BY RANGE (received_ms);
CREATE INDEX history_device ON data.history (device_key, received_ms, ord);

CREATE FUNCTION data.day_ms(day date) RETURNS bigint LANGUAGE sql IMMUTABLE
    AS $$ SELECT (day - date '1970-01-01')::bigint * 86400000 $$;

CREATE FUNCTION data.time_text(ms bigint) RETURNS text LANGUAGE sql STABLE AS $$
    SELECT to_char(to_timestamp(ms / 1000.0) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') $$;

-- Creates the tables of the days from..until that are missing.
CREATE FUNCTION data.history_create(from_day date, until_day date) RETURNS void LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    day date;
    name text;
BEGIN
    SET LOCAL lock_timeout = '2s';
    FOR day IN SELECT d::date FROM generate_series(from_day, until_day, interval '1 day') d LOOP
        name := 'history_' || to_char(day, 'YYYYMMDD');
        IF to_regclass('data.' || name) IS NULL THEN
            PERFORM pg_advisory_xact_lock(hashtext('data.history')); -- another instance may be at it
            EXECUTE format('CREATE TABLE IF NOT EXISTS data.%I PARTITION OF data.history '
                           'FOR VALUES FROM (%s) TO (%s)', name, data.day_ms(day), data.day_ms(day + 1));
        END IF;
    END LOOP;
END $$;

-- Detaches and drops the days before this one; returns how many.
CREATE FUNCTION data.history_drop(before_day date) RETURNS int LANGUAGE plpgsql
    SECURITY DEFINER SET search_path = pg_catalog AS $$
DECLARE
    name text;
    n int := 0;
BEGIN
    SET LOCAL lock_timeout = '2s';
    PERFORM pg_advisory_xact_lock(hashtext('data.history'));
    FOR name IN SELECT c.relname FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
                WHERE i.inhparent = 'data.history'::regclass
                AND c.relname < 'history_' || to_char(before_day, 'YYYYMMDD') LOOP
        EXECUTE format('ALTER TABLE data.history DETACH PARTITION data.%I', name);
        EXECUTE format('DROP TABLE data.%I', name);
        n := n + 1;
    END LOOP;
    RETURN n;
END $$;

SELECT data.history_create((now() AT TIME ZONE 'UTC')::date - 1, (now() AT TIME ZONE 'UTC')::date + 2);

-- The last failure of each layer of a device.
CREATE TABLE data.failure (
    device_key bigint NOT NULL,
    layer      text   NOT NULL,
    code       text   NOT NULL,
    reason     text   NOT NULL,
    next_step  text,
    sample     text,
    first_ms   bigint NOT NULL,
    last_ms    bigint NOT NULL,
    count      bigint NOT NULL,
    PRIMARY KEY (device_key, layer)
) WITH (fillfactor = 70);

-- The last 64 changes of a device.
CREATE TABLE data.change (
    id         bigserial,
    device_key bigint NOT NULL,
    at_ms      bigint NOT NULL,
    what       text   NOT NULL, -- connected, disconnected, or the layer of a failure
    code       text,
    text       text   NOT NULL,
    PRIMARY KEY (device_key, id)
);

-- Takes failures; one is listed as a change when its code is new or it was quiet for a minute.
CREATE FUNCTION data.store_failures(k bigint[], layers text[], codes text[], reasons text[],
    next_steps text[], samples text[], firsts bigint[], lasts bigint[], counts bigint[])
    RETURNS void LANGUAGE sql AS $$
    WITH new AS (
        SELECT * FROM unnest(k, layers, codes, reasons, next_steps, samples, firsts, lasts, counts)
            AS n(device_key, layer, code, reason, next_step, sample, first_ms, last_ms, count)
    ), listed AS ( -- reads the table as it was
        INSERT INTO data.change (device_key, at_ms, what, code, text)
        SELECT n.device_key, n.first_ms, n.layer, n.code, n.reason
        FROM new n LEFT JOIN data.failure f USING (device_key, layer)
        WHERE f.code IS DISTINCT FROM n.code OR n.first_ms - f.last_ms > 60000
        ORDER BY n.first_ms
    )
    INSERT INTO data.failure AS f (device_key, layer, code, reason, next_step, sample, first_ms,
                                   last_ms, count)
    SELECT device_key, layer, code, reason, next_step, sample, first_ms, last_ms, count FROM new
    ON CONFLICT (device_key, layer) DO UPDATE SET
        code = excluded.code, reason = excluded.reason, next_step = excluded.next_step,
        sample = excluded.sample, last_ms = greatest(f.last_ms, excluded.last_ms),
        first_ms = CASE WHEN f.code = excluded.code THEN f.first_ms ELSE excluded.first_ms END,
        count = CASE WHEN f.code = excluded.code THEN f.count ELSE 0 END + excluded.count
$$;

CREATE FUNCTION data.keep_64_changes(k bigint[]) RETURNS void LANGUAGE sql AS $$
    DELETE FROM data.change c USING (
        SELECT d.device_key, (SELECT w.id FROM data.change w WHERE w.device_key = d.device_key
                              ORDER BY w.id DESC OFFSET 64 LIMIT 1) AS id
        FROM unnest(k) AS d(device_key)) old
    WHERE c.device_key = old.device_key AND c.id <= old.id
$$;

CREATE FUNCTION data.store_shadows(k bigint[], services text[], reported text[], times text[],
    touches bigint[]) RETURNS void LANGUAGE sql AS $$
    INSERT INTO data.shadow AS s (device_key, service_id, reported, reported_time, version)
    SELECT n.device_key, n.service_id, n.reported::jsonb, n.time, n.touches
    FROM unnest(k, services, reported, times, touches)
        AS n(device_key, service_id, reported, time, touches)
    ON CONFLICT (device_key, service_id) DO UPDATE SET
        reported = s.reported || excluded.reported, reported_time = excluded.reported_time,
        version = s.version + excluded.version
$$;

-- For the other daemons: since when a device is online or offline, and why.
CREATE VIEW data.state_view AS
    SELECT device_key, status, session_no, since_ms, cause FROM data.device_state;

GRANT USAGE ON SCHEMA data TO registry, command, rule;
GRANT SELECT ON data.state_view TO registry, command, rule;
INSERT INTO public.schema_migration (version, name) VALUES (4, 'data');
