-- 0025_registration_groups.sql: groups whose devices register themselves, and where devices that bootstrap are sent

SET LOCAL lock_timeout = '3s';

CREATE TABLE registry.registration_group (
    scope_id             text PRIMARY KEY,
    record_id            text NOT NULL UNIQUE DEFAULT registry.record_id(),
    app_id               text NOT NULL REFERENCES registry.app ON DELETE CASCADE,
    group_name           text NOT NULL,
    description          text,
    auth_type            text NOT NULL CHECK (auth_type IN ('SECRET', 'CERTIFICATES')),
    secret               text, -- sealed
    product_id           text, -- of devices whose id names none
    product_of_device_id boolean NOT NULL,
    enabled              boolean NOT NULL DEFAULT true,
    device_limit         bigint NOT NULL,
    registered           bigint NOT NULL DEFAULT 0,
    project_id           text NOT NULL, -- whose audit log tells of its devices
    created              timestamptz NOT NULL DEFAULT now(),
    updated              timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX registration_group_by_app ON registry.registration_group (app_id, record_id);

-- keyword '': for devices that name none.
CREATE TABLE registry.bootstrap_strategy (
    strategy_id text PRIMARY KEY,
    app_id      text NOT NULL REFERENCES registry.app ON DELETE CASCADE,
    keyword     text NOT NULL,
    address     text, -- NULL: that of the platform
    init_config json,
    created     timestamptz NOT NULL DEFAULT now(),
    updated     timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT bootstrap_strategy_once UNIQUE (app_id, keyword)
);
CREATE INDEX bootstrap_strategy_by_app ON registry.bootstrap_strategy (app_id, strategy_id);

CREATE VIEW registry.bootstrap_view AS
SELECT app_id, keyword, address, init_config FROM registry.bootstrap_strategy;
GRANT SELECT ON registry.bootstrap_view TO data;

INSERT INTO public.schema_migration (version, name) VALUES (25, 'registration_groups');
