-- identity: accounts, projects, users, access keys, and what the first start made.
-- Passwords are hashed; secrets of access keys are sealed, since signatures need them in clear.

CREATE TABLE identity.account (
    domain_id text PRIMARY KEY,
    name      text NOT NULL UNIQUE,
    created   timestamptz NOT NULL DEFAULT now()
);

CREATE TABLE identity.project (
    project_id text PRIMARY KEY,
    domain_id  text NOT NULL REFERENCES identity.account,
    name       text NOT NULL,
    created    timestamptz NOT NULL DEFAULT now(),
    UNIQUE (domain_id, name)
);

CREATE TABLE identity.principal (
    user_id       text PRIMARY KEY,
    domain_id     text NOT NULL REFERENCES identity.account,
    name          text NOT NULL,
    password_hash text NOT NULL,
    role          text NOT NULL CHECK (role IN ('administrator', 'reader')),
    generation    bigint NOT NULL DEFAULT 1, -- counts up when tokens given out must end
    enabled       boolean NOT NULL DEFAULT true,
    created       timestamptz NOT NULL DEFAULT now(),
    UNIQUE (domain_id, name)
);

CREATE TABLE identity.access_key (
    access  text PRIMARY KEY,
    user_id text NOT NULL REFERENCES identity.principal,
    sealed  text NOT NULL,
    enabled boolean NOT NULL DEFAULT true,
    created timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX access_key_user ON identity.access_key (user_id);

-- One row, made by whichever instance starts first; the others read it.
CREATE TABLE identity.first_access (
    only_one        boolean PRIMARY KEY DEFAULT true CHECK (only_one),
    user_id         text NOT NULL REFERENCES identity.principal,
    project_id      text NOT NULL REFERENCES identity.project,
    access          text NOT NULL REFERENCES identity.access_key,
    sealed_password text NOT NULL
);

INSERT INTO public.schema_migration (version, name) VALUES (2, 'identity');
