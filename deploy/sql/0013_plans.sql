-- 0013_plans.sql: an index behind the statements that had none (tests/integration/test_plans.py)

SET LOCAL lock_timeout = '3s';
CREATE INDEX session_lost ON registry.session (lost) WHERE lost IS NOT NULL;
CREATE INDEX rule_by_app ON rule.rule (app_id) WHERE app_id IS NOT NULL;

INSERT INTO public.schema_migration (version, name) VALUES (13, 'plans');
