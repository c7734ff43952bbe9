/* CreateProductDraft: a model from samples in the body, or from what a device has sent. */
#include <inttypes.h>
#include <string.h>

#include "libcommon/json.h"
#include "services/uplink-processor/draft.h"
#include "services/uplink-processor/serve.h"

#define SERVICE "Default" /* of samples that name none */

/* The newest of what a device said, oldest first; one row of NULLs when it has said nothing. */
static const struct cw_stmt stmt_samples = {
    "serve_draft",
    "SELECT h.body, h.id FROM registry.device_view d LEFT JOIN LATERAL (SELECT body, received_ms,"
    " ord, lpad(to_hex(received_ms), 12, '0') || lpad(to_hex(ord), 12, '0') AS id"
    " FROM data.history h WHERE h.device_key = d.device_key AND h.kind IN ('property', 'message')"
    " ORDER BY received_ms DESC, ord DESC LIMIT $2::int) h ON true"
    " WHERE d.device_id = $1 ORDER BY h.received_ms, h.ord"
};

static struct draft *draft_of(struct cw_api_call *call)
{
    const char *service = cw_body_text(cw_api_body(call), "service_id");
    return draft_new(service ? service : SERVICE);
}

/* Takes the draft. */
static void reply(struct cw_api_call *call, struct draft *d, json_t *ids)
{
    json_t *out = draft_model(d);
    draft_free(&d);
    if (ids)
        json_object_set_new(out, "sample_ids", ids);
    if (json_array_size(json_object_get(out, "evidence")))
        cw_api_reply_json(call, 200, out);
    else {
        json_decref(out);
        cw_api_fail(call, CW_E_NO_SAMPLES, "%s.",
                    ids ? "The device has sent nothing with properties"
                        : "samples: none of them has");
    }
}

static void on_samples(PGresult *res, void *arg)
{
    struct cw_api_call *call = arg;
    struct cw_json_error err;
    if (cw_db_outcome(res) == CW_DB_OK && PQntuples(res) == 0) {
        cw_api_fail(call, CW_E_NO_DEVICE, "device_id: \"%s\".",
                    cw_body_text(cw_api_body(call), "device_id"));
        return;
    }
    if (!serve_has_rows(call, res))
        return;
    struct draft *d = draft_of(call);
    json_t *ids = json_array();
    for (int i = 0; i < PQntuples(res) && cw_db_str(res, i, "id"); i++) {
        const char *body = cw_db_str(res, i, "body");
        json_t *sample = body ? cw_json_parse(body, strlen(body), &err) : NULL;
        draft_add(d, sample);
        json_decref(sample);
        json_array_append_new(ids, json_string(cw_db_str(res, i, "id")));
    }
    reply(call, d, ids);
}

void create_product_draft(struct cw_api_call *call, void *self)
{
    char most[24];
    size_t i;
    const json_t *body = cw_api_body(call), *samples = json_object_get(body, "samples"), *sample;
    const char *device = cw_body_text(body, "device_id");
    if (!samples == !device) {
        cw_api_fail(call, CW_E_INVALID, "Give either samples or device_id.");
        return;
    }
    if (device) {
        const struct cw_db_param p[] = { CW_TEXT(device), cw_db_int(DRAFT_SAMPLES_MAX, most) };
        serve_query(call, self, &stmt_samples, 2, p, on_samples);
        return;
    }
    struct draft *d = draft_of(call);
    json_array_foreach(samples, i, sample) draft_add(d, sample);
    reply(call, d, NULL);
}
