-- 0001_roles.sql: a role and a schema of the same name for each daemon that keeps data.
-- What the migration user creates in schema X later is for role X alone, unless it is granted.

CREATE TABLE public.schema_migration (
    version    int PRIMARY KEY,
    name       text NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT now()
);
GRANT SELECT ON public.schema_migration TO PUBLIC;

-- Not per schema: PostgreSQL gives EXECUTE to everybody by a global default only.
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;

DO $$
DECLARE
    r text;
BEGIN
    FOREACH r IN ARRAY ARRAY['identity', 'registry', 'data', 'command', 'rule', 'push'] LOOP
        -- roles belong to the cluster, not to the database: they may be there already
        IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = r) THEN
            EXECUTE format('CREATE ROLE %I', r);
        END IF;
        IF EXISTS (SELECT FROM pg_roles WHERE rolname = r AND (rolsuper OR rolcreatedb OR rolcreaterole)) THEN
            RAISE 'role % is there and may more than a daemon should', r;
        END IF;
        EXECUTE format('ALTER ROLE %I LOGIN', r);
        EXECUTE format('ALTER ROLE %I SET statement_timeout = %L', r, '30s');
        EXECUTE format('ALTER ROLE %I SET idle_in_transaction_session_timeout = %L', r, '30s');
        EXECUTE format('ALTER ROLE %I SET search_path = %I', r, r);
        EXECUTE format('CREATE SCHEMA %I', r);
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', r, r);
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I
                        GRANT SELECT, INSERT, UPDATE, DELETE ON TABLES TO %I', r, r);
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I
                        GRANT SELECT, USAGE ON SEQUENCES TO %I', r, r);
        EXECUTE format('ALTER DEFAULT PRIVILEGES IN SCHEMA %I
                        GRANT EXECUTE ON FUNCTIONS TO %I', r, r);
    END LOOP;
END
$$;

INSERT INTO public.schema_migration (version, name) VALUES (1, 'roles');
