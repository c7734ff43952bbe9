-- 0016_way_down.sql: what was asked of a device: a command, the writing or the reading of properties

SET LOCAL lock_timeout = '3s';
ALTER TABLE command.command ADD COLUMN kind text NOT NULL DEFAULT 'command' CHECK (kind IN ('command', 'set', 'get'));

INSERT INTO public.schema_migration (version, name) VALUES (16, 'way_down');
