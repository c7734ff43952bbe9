/* identity: accounts, users, tokens, access keys. See README.md. */
#include <errno.h>
#include <stddef.h>
#include <string.h>

#include "services/identity/facts.h"
#include "services/identity/iam.h"

#define AT(f) offsetof(struct identity, f)

static const struct cw_option options[] = {
    { "KEY_TOKEN", CW_OPT_HEX32, NULL, 0, 0, AT(key_token), "key that signs tokens" },
    { "KEY_SEAL", CW_OPT_HEX32, NULL, 0, 0, AT(key_seal), "key that seals secrets at rest" },
    { "REGION", CW_OPT_STRING, "region-1", 1, 64, AT(region),
      "name of the project that a first start makes" },
    { "DOMAIN", CW_OPT_STRING, "causeway", 1, 64, AT(domain),
      "name of the account that a first start makes" },
    { "USERS_MAX", CW_OPT_INT, "1000", 1, 100000, AT(users_max), "users of an account" },
    { "GROUPS_MAX", CW_OPT_INT, "200", 1, 100000, AT(groups_max), "groups of an account" },
    { "POLICIES_MAX", CW_OPT_INT, "200", 1, 100000, AT(policies_max),
      "own policies of an account" },
    { "KEYS_MAX", CW_OPT_INT, "10", 1, 1000, AT(keys_max), "permanent access keys of a user" },
    { "LOGIN_FAILURES", CW_OPT_INT, "5", 0, 1000, AT(failures_max),
      "wrong passwords in a row that lock a user; 0: never" },
    { "LOCKOUT", CW_OPT_MS, "15m", 1000, 86400000, AT(lockout_ms), "how long it is locked" },
    { "AUDIT_DAYS", CW_OPT_INT, "180", 1, 3650, AT(audit_days), "days that the audit log is kept" },
    { "PUBLIC_HOST", CW_OPT_STRING, "", 0, 253, AT(public_host),
      "name or address by which clients reach the platform; empty: as the daemons listen" },
    { "PUBLIC_PORTS", CW_OPT_STRING, "", 0, 300, AT(public_ports),
      "ports by which they do, where entries publish others: mqtt=1883 mqtts=8883 https=443" },
    { "CA_FILE", CW_OPT_STRING, "", 0, 4000, AT(ca_file),
      "PEM file of the CA that clients are to trust; empty: one that they know" },
    { 0 },
};

#define AT_LIMIT "refused with 403 and a text"

/* Of the account with the most. */
static const struct cw_facts_use uses[] = {
    { "USERS_MAX",
      "SELECT COALESCE(max(n), 0) FROM (SELECT count(*) AS n FROM identity.principal"
      " GROUP BY domain_id) u",
      .then = AT_LIMIT },
    { "GROUPS_MAX",
      "SELECT COALESCE(max(n), 0) FROM (SELECT count(*) AS n FROM identity.user_group"
      " GROUP BY domain_id) g",
      .then = AT_LIMIT },
    { "POLICIES_MAX",
      "SELECT COALESCE(max(n), 0) FROM (SELECT count(*) AS n FROM identity.policy"
      " WHERE domain_id IS NOT NULL GROUP BY domain_id) p",
      .then = AT_LIMIT },
    { "KEYS_MAX",
      "SELECT COALESCE(max(n), 0) FROM (SELECT count(*) AS n FROM identity.access_key"
      " WHERE expires IS NULL GROUP BY user_id) k",
      .then = AT_LIMIT },
    { 0 },
};

static const struct cw_api_op own[] = {
    { "KeystoneCreateToken", on_create_token },
    { "KeystoneListProjects", on_list_projects },
    { "KeystoneListRegions", on_list_regions },
    { "KeystoneListDomains", on_list_domains },
    { "ShowPrincipal", on_show_principal },
    { "ShowAccessKey", on_show_access_key },
    { "WriteAudit", on_write_audit },
    { "ListAuditRecords", on_list_audit },
    { "ShowFacts", on_show_facts },
};

/* Those of the table of users, groups, policies and keys are one handler. */
static void serve(struct identity *self)
{
    static struct cw_api_op operations[CW_ARRAY_LEN(own) + 64];
    size_t n = CW_ARRAY_LEN(own);
    memcpy(operations, own, sizeof own);
    for (const struct iam_row *row = iam_rows; row->operation; row++)
        operations[n++] = (struct cw_api_op){ row->operation, on_iam };
    cw_api_serve(self->app, "identity", operations, self);
    audit_start(self);
}

static int identity_start(struct cw_app *app, void *arg)
{
    struct identity *self = arg;
    self->app = app;
    if (!(self->facts = facts_open(self)))
        return -EINVAL;
    self->hasher = hasher_open(cw_app_base(app));
    first_start_run(self, serve);
    return 0;
}

static void identity_drain(struct cw_app *app, void *arg)
{
    struct identity *self = arg;
    if (!self->first.retry)
        return;
    first_start_stop(self); /* nothing was promised to anybody yet */
    cw_app_release(app, "first start");
}

static void identity_stop(void *arg)
{
    struct identity *self = arg;
    facts_close(&self->facts);
    audit_stop(self);
    first_start_stop(self);
    hasher_close(&self->hasher);
}

static int main_mode(int argc, char **argv, void *self)
{
    (void)self;
    return argc == 2 && strcmp(argv[1], "--hash-helper") == 0 ? hash_helper() : -1;
}

int main(int argc, char **argv)
{
    static struct identity self;
    return cw_service_run(&(struct cw_service){ .name = "identity",
                                                .summary = "accounts, users, tokens, access keys",
                                                .options = options,
                                                .self = &self,
                                                .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                                                .schema_version = 12,
                                                .uses = uses,
                                                .start = identity_start,
                                                .drain = identity_drain,
                                                .stop = identity_stop,
                                                .main_mode = main_mode },
                          argc, argv);
}
