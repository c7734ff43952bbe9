-- 0018_kept_sessions.sql: sessions of MQTT that outlive their connection: what the device has subscribed

SET LOCAL lock_timeout = '3s';
-- session_no, change_no: the session that said it, and the number of its change. expiry_s: how long after the end of the
-- connection; 4294967295: for ever. filters: [[filter, qos, no local], …]
CREATE TABLE registry.kept_session (
    device_key bigint PRIMARY KEY REFERENCES registry.device ON DELETE CASCADE,
    session_no bigint NOT NULL,
    change_no  bigint NOT NULL,
    expiry_s   bigint NOT NULL,
    filters    text   NOT NULL
);

INSERT INTO public.schema_migration (version, name) VALUES (18, 'kept_sessions');
