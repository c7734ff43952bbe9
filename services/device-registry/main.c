/* device-registry: spaces, products, devices and sessions. README.md tells what it is. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/log_append.h"
#include "libcommon/log_read.h"
#include "libcommon/notice.h"
#include "proto/subjects.h"
#include "services/device-registry/bridges.h"
#include "services/device-registry/device_certs.h"
#include "services/device-registry/groups.h"
#include "services/device-registry/kept.h"
#include "services/device-registry/policies.h"
#include "services/device-registry/product_topics.h"
#include "services/device-registry/provision.h"
#include "services/device-registry/proxies.h"
#include "services/device-registry/refusals.h"
#include "services/device-registry/scopes.h"
#include "services/device-registry/strategies.h"
#include "services/device-registry/subdevices.h"
#include "services/device-registry/templates.h"
#include "services/device-registry/undelete.h"

#define AT(f) offsetof(struct registry, f)

static const struct cw_option options[] = {
    { "KEY_SEAL", CW_OPT_HEX32, NULL, 0, 0, AT(seal_key), "key that seals devices' secrets" },
    { "APPS_MAX", CW_OPT_INT, "10", 0, 1000000, AT(apps_max), "resource spaces; 0: any number" },
    { "PRODUCTS_MAX", CW_OPT_INT, "1000", 0, 1000000, AT(products_max), "products; 0: any number" },
    { "DEVICES_MAX", CW_OPT_INT, "0", 0, INT32_MAX, AT(devices_max), "devices; 0: any number" },
    { "CHILDREN_MAX", CW_OPT_INT, "50000", 0, 10000000, AT(children_max),
      "devices right below one gateway; 0: any number" },
    { "CAS_MAX", CW_OPT_INT, "100", 1, 10000, AT(cas_max), "CA certificates of devices" },
    { "POLICIES_MAX", CW_OPT_INT, "50", 1, 1000, AT(policies_max),
      "device policies, besides the one that each space begins with" },
    { "UNDELETE_DAYS", CW_OPT_INT, "30", 0, 3650, AT(undelete_days),
      "days for which a deleted device can be brought back" },
    { "TAGS_MAX", CW_OPT_INT, "10", 0, 1000, AT(tags_max), "tags of a device; 0: any number" },
    { "DEVICE_GROUPS_MAX", CW_OPT_INT, "1000", 0, 100000, AT(groups_max),
      "device groups; 0: any number" },
    { "GROUP_DEVICES_MAX", CW_OPT_INT, "20000", 0, INT32_MAX, AT(group_devices_max),
      "devices in a group; 0: any number" },
    { "GROUPS_PER_DEVICE_MAX", CW_OPT_INT, "10", 0, 1000, AT(device_groups_max),
      "static groups that a device is in; 0: any number" },
    { "SEARCH_TIMEOUT", CW_OPT_MS, "1s", 50, 20000, AT(search_ms),
      "longest time of a search in the database" },
    { "BRIDGES_MAX", CW_OPT_INT, "20", 1, 10000, AT(bridges_max), "bridges" },
    { "PROXIES_MAX", CW_OPT_INT, "10", 1, 10000, AT(proxies_max), "device proxies" },
    { "DEVICE_CERTS_MAX", CW_OPT_INT, "0", 0, INT32_MAX, AT(device_certs_max),
      "certificates of devices that are kept; 0: 1.5 times DEVICES_MAX" },
    { "TEMPLATES_MAX", CW_OPT_INT, "10", 1, 10000, AT(templates_max), "provisioning templates" },
    { "REGISTRATION_GROUPS_MAX", CW_OPT_INT, "100", 1, 10000, AT(scopes_max),
      "registration groups" },
    { "STRATEGIES_MAX", CW_OPT_INT, "100", 1, 10000, AT(strategies_max),
      "bootstrap strategies of one space" },
    { "PROVISION_RATE", CW_OPT_INT, "50", 1, 100000, AT(provision_rate),
      "attempts of devices to register themselves in a second; excess is to come again" },
    { "SECRETS_CACHED", CW_OPT_INT, "20000", 16, 10000000, AT(secrets_max),
      "opened secrets kept in memory" },
    { "GATEWAY_LOST", CW_OPT_MS, "5s", 1000, 600000, AT(lost_ms),
      "silence after which a gateway is taken for gone" },
    { "CLOSE_TIMEOUT", CW_OPT_MS, "5s", 100, 8000, AT(close_ms),
      "wait for a gateway that is to cut a session" },
    { 0 },
};

/* What is counted is what a creation compares with the setting. */
static const struct cw_facts_use uses[] = {
    { "APPS_MAX", "SELECT count(*) FROM registry.app", .at_limit = CW_E_APP_QUOTA },
    { "PRODUCTS_MAX", "SELECT count(*) FROM registry.product", .at_limit = CW_E_PRODUCT_QUOTA },
    { "DEVICES_MAX", "SELECT COALESCE(sum(n), 0) FROM registry.device_count",
      .at_limit = CW_E_DEVICE_QUOTA },
    { "CAS_MAX", "SELECT count(*) FROM registry.ca_certificate", .at_limit = CW_E_CERT_QUOTA },
    { "POLICIES_MAX", "SELECT count(*) FROM registry.device_policy WHERE NOT of_platform",
      .at_limit = CW_E_POLICY_QUOTA },
    { "DEVICE_GROUPS_MAX", "SELECT count(*) FROM registry.device_group",
      .at_limit = CW_E_GROUP_QUOTA },
    { "GROUP_DEVICES_MAX", "SELECT COALESCE(max(members), 0) FROM registry.device_group",
      .at_limit = CW_E_GROUP_FULL },
    { "PROXIES_MAX", "SELECT count(*) FROM registry.device_proxy", .at_limit = CW_E_PROXY_QUOTA },
    { "BRIDGES_MAX", "SELECT count(*) FROM registry.bridge", .at_limit = CW_E_BRIDGE_QUOTA },
    { "DEVICE_CERTS_MAX", "SELECT n FROM registry.device_certificate_count",
      .then = "certificates of devices that log in are not listed any more" },
    { "TEMPLATES_MAX", "SELECT count(*) FROM registry.provisioning_template",
      .at_limit = CW_E_TEMPLATE_QUOTA },
    { "REGISTRATION_GROUPS_MAX", "SELECT count(*) FROM registry.registration_group",
      .at_limit = CW_E_SCOPE_QUOTA },
    { "STRATEGIES_MAX",
      "SELECT COALESCE(max(n), 0) FROM (SELECT count(*) AS n FROM registry.bootstrap_strategy"
      " GROUP BY app_id) s",
      .at_limit = CW_E_STRATEGY_QUOTA },
    { 0 },
};

static const struct cw_api_op operations[] = {
    { "ShowApplications", show_applications },
    { "AddApplication", add_application },
    { "ShowApplication", show_application },
    { "UpdateApplication", update_application },
    { "DeleteApplication", delete_application },
    { "ResetApplicationSecret", reset_application_secret },
    { "ListProducts", list_products },
    { "CreateProduct", create_product },
    { "ShowProduct", show_product },
    { "UpdateProduct", update_product },
    { "DeleteProduct", delete_product },
    { "ListProductTopics", list_product_topics },
    { "CreateProductTopic", create_product_topic },
    { "DeleteProductTopic", delete_product_topic },
    { "ImportProduct", import_product },
    { "ExportProduct", export_product },
    { "AddCertificate", add_ca },
    { "ListCertificates", list_cas },
    { "ShowCertificate", show_ca },
    { "DeleteCertificate", delete_ca },
    { "CheckCertificate", check_ca },
    { "UpdateCertificate", update_ca },
    { "ListDeviceCertificate", list_device_certs },
    { "ShowDeviceCertificate", show_device_cert },
    { "UpdateDeviceCertificate", update_device_cert },
    { "DeleteDeviceCertificate", delete_device_cert },
    { "ListDeviceByDeviceCertificate", list_devices_of_cert },
    { "ListProvisioningTemplates", list_templates },
    { "CreateProvisioningTemplate", create_template },
    { "ShowProvisioningTemplate", show_template },
    { "UpdateProvisioningTemplate", update_template },
    { "DeleteProvisioningTemplate", delete_template },
    { "CreateRegistrationGroup", create_scope },
    { "ListRegistrationGroups", list_scopes },
    { "ShowRegistrationGroup", show_scope },
    { "UpdateRegistrationGroup", update_scope },
    { "DeleteRegistrationGroup", delete_scope },
    { "ResetRegistrationGroupSecret", reset_scope_secret },
    { "CreateBootstrapStrategy", create_strategy },
    { "ListBootstrapStrategies", list_strategies },
    { "ShowBootstrapStrategy", show_strategy },
    { "UpdateBootstrapStrategy", update_strategy },
    { "DeleteBootstrapStrategy", delete_strategy },
    { "ListRefusedConnections", list_refused },
    { "ListDevicePolicies", list_policies },
    { "CreateDevicePolicy", create_policy },
    { "ShowDevicePolicy", show_policy },
    { "UpdateDevicePolicy", update_policy },
    { "DeleteDevicePolicy", delete_policy },
    { "BindDevicePolicy", bind_policy },
    { "UnbindDevicePolicy", unbind_policy },
    { "ShowTargetsInDevicePolicy", list_policy_targets },
    { "ListDeletedDevices", list_deleted },
    { "UndeleteDevice", undelete_device },
    { "TagDevice", bind_tags },
    { "UntagDevice", unbind_tags },
    { "ListResourcesByTags", list_tagged },
    { "SearchDevices", search_devices },
    { "ListDeviceGroups", list_groups },
    { "AddDeviceGroup", add_group },
    { "ShowDeviceGroup", show_group },
    { "UpdateDeviceGroup", update_group },
    { "DeleteDeviceGroup", delete_group },
    { "CreateOrDeleteDeviceInGroup", change_member },
    { "ShowDevicesInGroup", list_members },
    { "ListDeviceGroupsByDevice", list_groups_of_device },
    { "ListBridges", list_bridges },
    { "AddBridge", add_bridge },
    { "DeleteBridge", delete_bridge },
    { "ResetBridgeSecret", reset_bridge_secret },
    { "ListDeviceProxies", list_proxies },
    { "CreateDeviceProxy", create_proxy },
    { "ShowDeviceProxy", show_proxy },
    { "UpdateDeviceProxy", update_proxy },
    { "DeleteDeviceProxy", delete_proxy },
    { "ListDevices", list_devices },
    { "AddDevice", add_device },
    { "ShowDevice", show_device },
    { "UpdateDevice", update_device },
    { "DeleteDevice", delete_device },
    { "ResetDeviceSecret", reset_device_secret },
    { "ResetFingerprint", reset_fingerprint },
    { "FreezeDevice", freeze_device },
    { "UnfreezeDevice", unfreeze_device },
    { "ChangeGateway", change_gateway },
    { 0 },
};

#define SPACE_OF_APP                                                                               \
    "SELECT app_id FROM registry.app"                                                              \
    " WHERE CASE WHEN $1::text IS NULL THEN default_app ELSE app_id = $1 END"

/* The product that product_find() would choose. */
static const struct cw_space_rule spaces[] = {
    { "new", { "space_of_new", SPACE_OF_APP }, { "body:app_id" } },
    { "import", { "space_of_import", SPACE_OF_APP }, { "query:app_id" } },
    { "device",
      { "space_of_device", "SELECT app_id FROM registry.device WHERE device_id = $1" },
      { "path:device_id" } },
    { "ca",
      { "space_of_ca",
        "SELECT app_id FROM registry.ca_certificate WHERE certificate_id = lower($1)" },
      { "path:certificate_id" } },
    { "devicecert",
      { "space_of_device_certificate",
        "SELECT app_id FROM registry.device_certificate WHERE certificate_id = lower($1)" },
      { "path:certificate_id" } },
    { "scope",
      { "space_of_scope", "SELECT app_id FROM registry.registration_group WHERE scope_id = $1" },
      { "path:scope_id" } },
    { "strategy",
      { "space_of_strategy",
        "SELECT app_id FROM registry.bootstrap_strategy WHERE strategy_id = $1" },
      { "path:strategy_id" } },
    { "deleted",
      { "space_of_deleted", "SELECT app_id FROM registry.deleted_device WHERE device_id = $1"
                            " ORDER BY record_id DESC LIMIT 1" },
      { "path:device_id" } },
    { "resource",
      { "space_of_resource", "SELECT app_id FROM registry.device WHERE device_id = $1" },
      { "body:resource_id" } },
    { "group",
      { "space_of_group", "SELECT app_id FROM registry.device_group WHERE group_id = lower($1)" },
      { "path:group_id" } },
    { "policy",
      { "space_of_policy",
        "SELECT app_id FROM registry.device_policy WHERE policy_id = lower($1)" },
      { "path:policy_id" } },
    { "proxy",
      { "space_of_proxy", "SELECT app_id FROM registry.device_proxy WHERE proxy_id = lower($1)" },
      { "path:proxy_id" } },
    { "product",
      { "space_of_product", "SELECT p.app_id FROM registry.product p JOIN registry.app a"
                            " USING (app_id) WHERE p.product_id = $1"
                            " AND ($2::text IS NULL OR p.app_id = $2)"
                            " ORDER BY a.default_app DESC, p.product_key LIMIT 1" },
      { "path:product_id", "any:app_id" } },
    { 0 },
};

/* Another instance changed a device. */
static void on_invalidate(const struct cw_bus_msg *msg, void *arg)
{
    char key[24];
    if (msg->no_responders || msg->len >= sizeof key)
        return;
    memcpy(key, msg->data, msg->len);
    key[msg->len] = '\0';
    secrets_drop(((struct registry *)arg)->secrets, strtoll(key, NULL, 10));
}

static void on_bus(bool connected, void *arg)
{
    if (connected) /* what was said meanwhile has been missed */
        secrets_drop_all(((struct registry *)arg)->secrets);
}

/* A row that is held by a process that was stopped must not hold up what comes behind it. */
static void on_db(bool connected, void *arg)
{
    if (connected)
        cw_db_query(arg, "SET lock_timeout = '1s'", NULL, NULL);
}

/* Statements over arrays: PostgreSQL would plan each call anew, since it does not know how few they
 * hold, and that takes twice as long as the lookup itself. */
static void on_logins(bool connected, void *arg)
{
    if (connected)
        cw_db_query(arg, "SET plan_cache_mode = force_generic_plan", NULL, NULL);
}

static struct cw_db *connection(struct cw_app *app)
{
    return cw_db_open(cw_app_base(app), cw_app_db_conninfo(app), cw_app_name(app));
}

static int start(struct cw_app *app, void *self)
{
    struct registry *r = self;
    r->app = app;
    for (size_t i = 0; i < CALL_CONNECTIONS; i++) {
        r->calls[i] = i == 0 ? cw_app_db(app) : connection(app);
        cw_db_watch(r->calls[i], on_db, r->calls[i]);
    }
    r->logins = connection(app);
    cw_db_watch(r->logins, on_db, r->logins);
    cw_db_watch(r->logins, on_logins, r->logins);
    r->searches = searches_open(r);
    r->groups = group_keeper_open(r);
    r->trust = trust_open(r);
    r->secrets = secrets_open((size_t)r->secrets_max);
    cw_bus_subscribe(cw_app_bus(app), "invalidate.device", NULL, on_invalidate, r);
    cw_bus_watch(cw_app_bus(app), on_bus, r);
    cw_api_serve(app, "registry", operations, r);
    cw_api_space_rules("registry", spaces);
    cw_api_serve_raw("registry", "open_sessions", sessions_open, r);
    cw_api_serve_raw("registry", "provision", provision_open, r);
    cw_api_serve_raw("registry", "refused", refusals_tell, r);
    cw_api_serve_raw("registry", "keep_session", sessions_keep, r);
    cw_api_serve_raw("registry", "policies", policies_tell, r);
    cw_api_serve_raw("registry", "open_bridge", bridges_open, r);
    cw_api_serve_raw("registry", "close_bridge", bridges_close, r);
    cw_api_serve_raw("registry", "bridge_secret", bridges_secret, r);
    r->uplink = cw_log_append_open(app, CW_LOG_UPLINK);
    r->notices = cw_notices_open(app, r->uplink);
    events_start(r);
    gateways_start(r);
    expiry_start(r);
    r->subdevices = subdevices_open(r);
    cw_app_hold(app, "default space");
    apps_start(r);
    return 0;
}

static void drain(struct cw_app *app, void *self)
{
    struct registry *r = self;
    (void)app;
    cw_log_reader_drain(r->events);
}

static void stop(void *self)
{
    struct registry *r = self;
    gateways_stop(r);
    expiry_stop(r);
    subdevices_close(&r->subdevices);
    cw_notices_close(&r->notices);
    cw_log_append_close(&r->uplink);
    cw_log_reader_close(&r->events);
    refusals_stop(r);
    trust_close(&r->trust);
    group_keeper_close(&r->groups);
    searches_close(&r->searches);
    cw_db_close(&r->logins);
    for (size_t i = 1; i < CALL_CONNECTIONS; i++) /* the first is the skeleton's */
        cw_db_close(&r->calls[i]);
    secrets_close(&r->secrets);
    free(r->default_app);
    explicit_bzero(r->seal_key, sizeof r->seal_key);
}

static void facts(struct cw_facts *f, void *self)
{
    const struct registry *r = self;
    if (r->default_app)
        cw_facts_set(f, "default_app_id", json_string(r->default_app));
}

int main(int argc, char **argv)
{
    static struct registry self;
    return cw_service_run(
        &(struct cw_service){ .name = "device-registry",
                              .summary = "keeps resource spaces, products, devices and sessions",
                              .options = options,
                              .self = &self,
                              .needs = CW_NEEDS_BUS | CW_NEEDS_DB,
                              .schema_version = 32,
                              .uses = uses,
                              .facts = facts,
                              .start = start,
                              .drain = drain,
                              .stop = stop },
        argc, argv);
}
