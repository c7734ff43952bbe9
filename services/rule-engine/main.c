/* rule-engine: decides which application wants to know of an event, and builds the notification. */
#include <stddef.h>
#include <stdlib.h>

#include "libcommon/cidr.h"
#include "services/rule-engine/engine.h"

#define AT(f) offsetof(struct engine, f)
static const struct cw_option options[] = {
    { "KEY_SEAL", CW_OPT_HEX32, NULL, 0, 0, AT(seal_key), "seals tokens; push-notifier's, too" },
    { "RULES_MAX", CW_OPT_INT, "1000", 1, 100000, AT(rules_max), "rules" },
    { "ACTIONS_MAX", CW_OPT_INT, "10", 1, 100, AT(actions_max), "actions of a rule" },
    { "CERTIFICATES_MAX", CW_OPT_INT, "100", 1, 10000, AT(certificates_max),
      "certificates of push targets" },
    { "PUSH_DENY", CW_OPT_STRING, "", 0, 4096, AT(push_deny),
      "networks that are no targets, beside link-local: 10.0.0.0/8, fd00::/8" },
    { 0 },
};

static const struct cw_facts_use uses[] = {
    { "RULES_MAX", "SELECT count(*) FROM rule.rule", .at_limit = CW_E_RULE_QUOTA },
    { "ACTIONS_MAX",
      "SELECT COALESCE(max(n), 0) FROM (SELECT count(*) AS n FROM rule.action GROUP BY rule_id) a",
      .at_limit = CW_E_RULE_QUOTA },
    { "CERTIFICATES_MAX", "SELECT count(*) FROM rule.certificate", .at_limit = CW_E_CERT_QUOTA },
    { 0 },
};

static const struct cw_api_op ops[] = {
    { "CreateRoutingRule", create_rule },
    { "ListRoutingRules", list_rules },
    { "ShowRoutingRule", show_rule },
    { "UpdateRoutingRule", update_rule },
    { "DeleteRoutingRule", delete_rule },
    { "CreateRuleAction", create_action },
    { "ListRuleActions", list_actions },
    { "ShowRuleAction", show_action },
    { "UpdateRuleAction", update_action },
    { "DeleteRuleAction", delete_action },
    { "CreateRoutingCertificate", create_certificate },
    { "ListRoutingCertificates", list_certificates },
    { "ShowRoutingCertificate", show_certificate },
    { "DeleteRoutingCertificate", delete_certificate },
    { 0 },
};

/* A rule of all spaces, and its actions, lie in none. */
static const struct cw_space_rule spaces[] = {
    { "new",
      { "space_of_new", "SELECT CASE WHEN $2::text = 'APP' THEN app_id END AS app_id"
                        " FROM registry.app_view WHERE CASE WHEN $1::text IS NULL THEN default_app"
                        " ELSE app_id = $1 END" },
      { "body:app_id", "body:app_type" } },
    { "rule",
      { "space_of_rule", "SELECT app_id FROM rule.rule WHERE rule_id = $1" },
      { "path:rule_id" } },
    { "action",
      { "space_of_action", "SELECT r.app_id FROM rule.action JOIN rule.rule r USING (rule_id)"
                           " WHERE action_id = $1" },
      { "path:action_id" } },
    { "rule_of_action",
      { "space_of_its_rule", "SELECT app_id FROM rule.rule WHERE rule_id = $1" },
      { "body:rule_id" } },
    { 0 },
};

/* No event is looked at before the rules are known. */
static void on_rules(struct engine *e)
{
    cw_api_serve(e->app, "rule", ops, e);
    cw_api_space_rules("rule", spaces);
    if (!cw_app_draining(e->app))
        events_start(e);
    ledger_start(e);
    e->loaded = true;
    cw_app_release(e->app, "rules");
}

static int start(struct cw_app *app, void *self)
{
    struct engine *e = self;
    char err[200], *deny = cw_sprintf("169.254.0.0/16 fe80::/10 %s", e->push_deny);
    int rc = cw_cidr_parse(&e->deny, deny, err, sizeof err);
    free(deny);
    if (rc < 0) {
        cw_log(CW_ERROR, "could_not_start", "CAUSEWAY_PUSH_DENY: %s", err);
        return rc;
    }
    e->app = app;
    e->db = cw_app_db(app);
    cw_app_hold(app, "rules");
    e->table = rule_table_open(e, on_rules);
    return 0;
}

static void drain(struct cw_app *app, void *self)
{
    struct engine *e = self;
    if (e->reader)
        cw_log_reader_drain(e->reader);
    if (!e->loaded) { /* they may never come */
        rule_table_close(&e->table);
        cw_app_release(app, "rules");
    }
}

static void stop(void *self)
{
    struct engine *e = self;
    ledger_stop();
    cw_log_reader_close(&e->reader);
    rule_table_close(&e->table);
    cw_cidr_free(&e->deny);
}

int main(int argc, char **argv)
{
    static struct engine self;
    return cw_service_run(
        &(struct cw_service){ .name = "rule-engine",
                              .summary = "matches events against forwarding rules",
                              .options = options,
                              .self = &self,
                              .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                              .schema_version = 10,
                              .uses = uses,
                              .start = start,
                              .drain = drain,
                              .stop = stop },
        argc, argv);
}
