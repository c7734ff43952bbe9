-- 0009_room.sql: room in the pages of rows that change at every login, so that their indexes need not
--
-- data.store_shadows() stays for the release before this one; nobody else calls it.

SET LOCAL lock_timeout = '3s';
ALTER TABLE registry.device SET (fillfactor = 80);
ALTER TABLE registry.session SET (fillfactor = 70);
ALTER TABLE command.command SET (fillfactor = 80);

INSERT INTO public.schema_migration (version, name) VALUES (9, 'room');
