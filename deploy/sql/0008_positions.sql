-- 0008_positions.sql: how far the readers of each log are, in one place: for trimming and for people

-- Readers that a log must wait for. Whoever is added here is waited for from its first start on.
CREATE VIEW public.log_reader AS
    SELECT * FROM (VALUES ('UPLINK', 'data'), ('EVENT', 'rule'), ('EVENT', 'command'),
                          ('EVENT', 'registry'), ('PUSH', 'push')) AS r(log, schema);

CREATE VIEW public.log_position AS
    SELECT p.schema, p.log, p.partition, p.seq, p.trim
    FROM (SELECT 'data' AS schema, log, partition, seq, trim FROM data.position
          UNION ALL SELECT 'rule', log, partition, seq, trim FROM rule.position
          UNION ALL SELECT 'command', log, partition, seq, trim FROM command.position
          UNION ALL SELECT 'registry', log, partition, seq, trim FROM registry.position
          UNION ALL SELECT 'push', log, partition, seq, trim FROM push.position) p
    JOIN public.log_reader r ON r.log = p.log AND r.schema = p.schema;

GRANT SELECT ON public.log_reader, public.log_position TO PUBLIC;
INSERT INTO public.schema_migration (version, name) VALUES (8, 'positions');
