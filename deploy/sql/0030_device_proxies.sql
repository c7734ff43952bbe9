-- 0030_device_proxies.sql: gateways whose children may come online through each other

SET LOCAL lock_timeout = '3s';

CREATE TABLE registry.device_proxy (
    proxy_id   text PRIMARY KEY,
    app_id     text NOT NULL REFERENCES registry.app ON DELETE CASCADE,
    proxy_name text NOT NULL,
    begins     timestamptz NOT NULL,
    ends       timestamptz NOT NULL, -- from then on it is over
    CHECK (begins < ends)
);

-- A gateway that is deleted leaves. nth: its place in the list.
CREATE TABLE registry.proxy_gateway (
    proxy_id   text   NOT NULL REFERENCES registry.device_proxy ON DELETE CASCADE,
    device_key bigint NOT NULL CONSTRAINT proxy_gateway_device REFERENCES registry.device ON DELETE CASCADE,
    nth        int    NOT NULL,
    PRIMARY KEY (proxy_id, device_key)
);
CREATE INDEX proxy_gateway_by_device ON registry.proxy_gateway (device_key);

-- data: who may speak for whose children, and when. A row for each gateway.
CREATE VIEW registry.proxy_view AS
SELECT p.proxy_id, p.proxy_name, (extract(epoch FROM p.begins) * 1000)::bigint AS begins_ms,
       (extract(epoch FROM p.ends) * 1000)::bigint AS ends_ms, d.device_key, d.device_id
FROM registry.device_proxy p JOIN registry.proxy_gateway g USING (proxy_id) JOIN registry.device d USING (device_key);
GRANT SELECT ON registry.proxy_view TO data;

-- The gateway that said a child's status last, and in which of its sessions; NULL: its own gateway, in session_no. The
-- child's session_no counts on when another gateway, or another session, takes it over: what is older says nothing more.
ALTER TABLE data.device_state ADD COLUMN via_key bigint, ADD COLUMN via_session bigint;
CREATE INDEX device_state_by_via ON data.device_state (via_key) WHERE via_key IS NOT NULL;

INSERT INTO public.schema_migration (version, name) VALUES (30, 'device_proxies');
