/* Devices: frozen ones are cut off and let in no more. */
#include <string.h>

#include "services/device-registry/change.h"

static const struct cw_stmt stmt_freeze = {
    "devices_freeze",
    "WITH d AS (UPDATE registry.device SET frozen = $3::boolean, auth_version = auth_version + 1,"
    "  version = version + 1, updated = now() WHERE device_key = $1 AND version = $2"
    "  RETURNING partition)"
    " INSERT INTO registry.outbox (partition, event) SELECT partition, $4::bytea FROM d"
    " RETURNING id"
};

static void answer(struct change *c)
{
    cw_api_reply(c->call, 204, NULL, 0);
    change_free(c);
}

static void on_frozen(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (change_written(c, res, "freeze a device"))
        change_cut(c, "The device is frozen");
}

static void on_unfrozen(PGresult *res, void *arg)
{
    struct change *c = arg;
    if (change_written(c, res, "unfreeze a device"))
        answer(c);
}

/* What the device shows afterwards: unfrozen it is what its connection says. */
static bool write_change(struct change *c, const PGresult *row, bool freeze)
{
    char key[24], version[24];
    json_t *shown = device_json(c->r, row, 0, DEVICE_PUBLIC);
    json_object_set_new(shown, "status",
                        json_string(freeze ? "FROZEN" : cw_db_str(row, 0, "connection_status")));
    struct cw_buf event = change_event(c, row, CAUSEWAY__EVENT_KIND__EVENT_DEVICE_UPDATED, shown);
    const struct cw_db_param p[] = { cw_db_int(c->device_key, key), cw_db_int(c->version, version),
                                     CW_TEXT(freeze ? "t" : "f"), CW_BIN(event.data, event.len) };
    bool sent =
        cw_db_exec(registry_db(c->r), &stmt_freeze, 4, p, freeze ? on_frozen : on_unfrozen, c);
    cw_buf_free(&event);
    json_decref(shown);
    return sent;
}

static void make(struct change *c, const PGresult *row, bool freeze)
{
    const char *device_id = cw_db_str(row, 0, "device_id");
    bool frozen = strcmp(cw_db_str(row, 0, "status"), "FROZEN") == 0;
    if (cw_db_str(row, 0, "parent_key"))
        change_fail(c, CW_E_NOT_DIRECT, "Device \"%s\" is a child of \"%s\".", device_id,
                    cw_db_str(row, 0, "gateway_id"));
    else if (frozen == freeze)
        change_fail(c, freeze ? CW_E_FROZEN : CW_E_NOT_FROZEN, "Device \"%s\".", device_id);
    else {
        c->answer = answer;
        c->cause = "frozen";
        if (!write_change(c, row, freeze))
            change_no_db(c);
    }
}

static void make_freeze(struct change *c, const PGresult *row) { make(c, row, true); }
static void make_unfreeze(struct change *c, const PGresult *row) { make(c, row, false); }

void freeze_device(struct cw_api_call *call, void *self) { change_begin(self, call, make_freeze); }
void unfreeze_device(struct cw_api_call *call, void *self)
{
    change_begin(self, call, make_unfreeze);
}
