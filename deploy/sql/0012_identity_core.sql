-- 0012_identity_core.sql: groups, policies and what groups may, keys that end, lockout, the audit log
--
-- principal.role stays for the release before this one; rights now come from groups.

SET LOCAL lock_timeout = '3s';

ALTER TABLE identity.principal
    ADD COLUMN description  text,
    ADD COLUMN failures     int NOT NULL DEFAULT 0, -- wrong passwords in a row
    ADD COLUMN last_failure timestamptz,
    ADD COLUMN locked_until timestamptz;

-- policy: what a temporary key may at most; expires and token_hash: of temporary keys only.
ALTER TABLE identity.access_key
    ADD COLUMN description text,
    ADD COLUMN expires     timestamptz,
    ADD COLUMN token_hash  text, -- SHA-256 of X-Security-Token, in hex
    ADD COLUMN policy      jsonb,
    ADD COLUMN last_used   timestamptz,
    DROP CONSTRAINT access_key_user_id_fkey,
    ADD CONSTRAINT access_key_user_id_fkey FOREIGN KEY (user_id) REFERENCES identity.principal ON DELETE CASCADE;
CREATE INDEX access_key_expires ON identity.access_key (expires) WHERE expires IS NOT NULL;

-- domain_id NULL: built in.
CREATE TABLE identity.policy (
    role_id      text PRIMARY KEY,
    domain_id    text REFERENCES identity.account,
    display_name text NOT NULL,
    type         text NOT NULL DEFAULT 'XA',
    description  text,
    document     jsonb NOT NULL,
    created      timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT policy_name_taken UNIQUE (domain_id, display_name)
);
CREATE TABLE identity.user_group (
    group_id    text PRIMARY KEY,
    domain_id   text NOT NULL REFERENCES identity.account,
    name        text NOT NULL,
    description text,
    created     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT group_name_taken UNIQUE (domain_id, name)
);
CREATE TABLE identity.membership (
    group_id text NOT NULL REFERENCES identity.user_group ON DELETE CASCADE,
    user_id  text NOT NULL REFERENCES identity.principal ON DELETE CASCADE,
    PRIMARY KEY (user_id, group_id)
);
CREATE INDEX membership_by_group ON identity.membership (group_id);
CREATE TABLE identity.group_policy (
    group_id   text NOT NULL REFERENCES identity.user_group ON DELETE CASCADE,
    project_id text NOT NULL REFERENCES identity.project,
    role_id    text NOT NULL CONSTRAINT policy_in_use REFERENCES identity.policy,
    PRIMARY KEY (group_id, project_id, role_id)
);
CREATE INDEX group_policy_by_role ON identity.group_policy (role_id);

INSERT INTO identity.policy (role_id, display_name, type, description, document) VALUES
    ('00000000000000000000000000000001', 'Administrator', 'AX', 'Everything, users and rights included',
     '{"Version":"1.1","Statement":[{"Effect":"Allow","Action":["*:*:*"]}]}'),
    ('00000000000000000000000000000002', 'IoTDA FullAccess', 'XA', 'Everything of devices and applications',
     '{"Version":"1.1","Statement":[{"Effect":"Allow","Action":["iotda:*:*"]}]}'),
    ('00000000000000000000000000000003', 'IoTDA ReadOnlyAccess', 'XA', 'Looks at everything of devices and applications',
     '{"Version":"1.1","Statement":[{"Effect":"Allow","Action":["iotda:*:query*"]}]}');

-- Whoever was administrator or reader is that by a group.
CREATE FUNCTION identity.first_group(domain text, project text, member text, group_name text, role text)
    RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    g text;
BEGIN
    INSERT INTO identity.user_group (group_id, domain_id, name, description)
    VALUES (replace(gen_random_uuid()::text, '-', ''), domain, group_name, 'made with the account')
    ON CONFLICT ON CONSTRAINT group_name_taken DO UPDATE SET name = excluded.name RETURNING group_id INTO g;
    INSERT INTO identity.group_policy (group_id, project_id, role_id) VALUES (g, project, role) ON CONFLICT DO NOTHING;
    INSERT INTO identity.membership (group_id, user_id) VALUES (g, member) ON CONFLICT DO NOTHING;
END $$;
SELECT identity.first_group(u.domain_id, p.project_id, u.user_id,
    CASE u.role WHEN 'administrator' THEN 'admin' ELSE 'readers' END,
    CASE u.role WHEN 'administrator' THEN '00000000000000000000000000000001' ELSE '00000000000000000000000000000003' END)
FROM identity.principal u JOIN identity.project p USING (domain_id);

-- Who changed what; and how it ended, in rows of their own, so that nothing is ever rewritten. Without an end: the
-- change was under way when the platform ended.
CREATE TABLE identity.audit (
    record_id   text PRIMARY KEY,
    at          timestamptz NOT NULL,
    project_id  text NOT NULL,
    user_id     text NOT NULL,
    user_name   text NOT NULL,
    peer        text,
    request_id  text NOT NULL,
    operation   text NOT NULL,
    method      text NOT NULL,
    resource    text NOT NULL
);
CREATE INDEX audit_by_user ON identity.audit (user_name, record_id);
CREATE INDEX audit_by_request ON identity.audit (request_id);
CREATE TABLE identity.audit_end (
    record_id   text PRIMARY KEY,
    status      int NOT NULL,
    error_code  text,
    resource_id text
);
CREATE INDEX audit_by_resource ON identity.audit_end (resource_id, record_id);

INSERT INTO public.schema_migration (version, name) VALUES (12, 'identity_core');
