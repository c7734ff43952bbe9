/* Models as they are stored: checked, and with what may be left out filled in. */
#include <stdlib.h>
#include <string.h>

#include "libcommon/model.h"
#include "services/device-registry/product.h"

static void set_default(json_t *o, const char *key, json_t *value)
{
    const json_t *v = json_object_get(o, key);
    if (!v || json_is_null(v))
        json_object_set_new(o, key, value);
    else
        json_decref(value);
}

/* Members that an application may leave out get the value that they then have. */
void product_fill_model(json_t *services)
{
    size_t i, k;
    json_t *s, *v;
    json_array_foreach(services, i, s)
    {
        set_default(s, "service_type", json_string(cw_body_text(s, "service_id")));
        set_default(s, "option", json_string("Optional"));
        set_default(s, "properties", json_array());
        set_default(s, "commands", json_array());
        set_default(s, "events", json_array());
        json_array_foreach(json_object_get(s, "properties"), k, v)
            set_default(v, "required", json_false());
    }
}

/* Defaults become wishes of each new device: they must fit. False: the call has been failed. */
static bool check_defaults(struct cw_api_call *call, const struct cw_model *m,
                           const json_t *services)
{
    size_t i, k;
    json_t *service;
    struct cw_verdicts v = { 0 };
    bool fine = true;
    json_array_foreach(services, i, service)
    {
        json_t *defaults = model_defaults(service);
        fine = cw_model_check_set(m, cw_body_text(service, "service_id"), defaults, &v);
        for (k = 0; !fine && v.items[k].code == CW_VERDICT_OK;)
            k++;
        if (!fine)
            cw_api_fail(call, CW_E_MODEL, "service_capabilities[%zu]: default_value of \"%s\": %s.",
                        i, v.items[k].name, v.items[k].text);
        json_decref(defaults);
        cw_verdicts_reset(&v);
        if (!fine)
            break;
    }
    cw_verdicts_free(&v);
    return fine;
}

/* False: the call has been failed. */
bool product_check_model(struct cw_api_call *call, const json_t *services)
{
    struct cw_model *m;
    struct cw_model_error err;
    if (cw_model_compile(&m, services, &err) < 0) {
        cw_api_fail(call, CW_E_MODEL, "%s: %s.", err.path, err.text);
        return false;
    }
    bool fine = check_defaults(call, m, services);
    cw_model_free(&m);
    return fine;
}
