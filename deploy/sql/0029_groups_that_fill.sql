-- 0029_groups_that_fill.sql: a dynamic group is filled when all has ended that did not know of it; a full one fills up again

SET LOCAL lock_timeout = '3s';

-- fill_after: whoever changed a device before this transaction may not have noted it (there was no dynamic group yet), and
-- is waited for. NULL: no instance has seen the group yet. left_out: devices fit for which there was no room.
ALTER TABLE registry.device_group ADD COLUMN fill_after xid8, ADD COLUMN left_out boolean NOT NULL DEFAULT false;
-- Groups of before may lack somebody: they are gone through once more.
UPDATE registry.device_group SET left_out = true WHERE rule IS NOT NULL AND filled_to IS NULL;

-- Of a dynamic group all members go with it, those too that join while it is being deleted. (Static ones must be empty.)
ALTER TABLE registry.group_member DROP CONSTRAINT group_member_group_id_fkey,
    ADD CONSTRAINT group_member_group_id_fkey FOREIGN KEY (group_id) REFERENCES registry.device_group ON DELETE CASCADE;

-- What the planner cannot guess of a search: which values belong to a key, how many devices have a status.
CREATE STATISTICS registry.device_tag_pairs (dependencies, mcv) ON tag_key, tag_value FROM registry.device_tag;
CREATE STATISTICS registry.device_shown_status ON (registry.shown_status(frozen, status)) FROM registry.device;

INSERT INTO public.schema_migration (version, name) VALUES (29, 'groups_that_fill');
