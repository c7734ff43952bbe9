/* The first desired values of a device: defaults of its product's model, and the wishes of the
 * registration over them. */
#include <string.h>

#include "libcommon/model.h"
#include "services/device-registry/registry.h"

static const char *get(const json_t *o, const char *key)
{
    return json_string_value(json_object_get(o, key));
}

const char *bad_shadow_key(const json_t *properties)
{
    for (void *it = json_object_iter((json_t *)properties); it;
         it = json_object_iter_next((json_t *)properties, it))
        if (strpbrk(json_object_iter_key(it), ".$"))
            return json_object_iter_key(it);
    return NULL;
}

/* The properties of the model that an application may write and that have a default. */
json_t *model_defaults(const json_t *service)
{
    size_t i;
    json_t *p, *v, *out = json_object();
    json_array_foreach(json_object_get(service, "properties"), i, p)
    {
        const char *method = get(p, "method");
        if ((v = json_object_get(p, "default_value")) && !json_is_null(v) && method &&
            strchr(method, 'W'))
            json_object_set(out, get(p, "property_name"), v);
    }
    return out;
}

static const json_t *wish_of(const json_t *wishes, const char *service_id)
{
    size_t i;
    json_t *w;
    json_array_foreach(wishes, i, w) if (strcmp(get(w, "service_id"), service_id) == 0) return w;
    return NULL;
}

json_t *first_desired(const json_t *model, const json_t *wishes)
{
    size_t i;
    json_t *service, *v, *out = json_array();
    const char *key;
    json_array_foreach(model, i, service)
    {
        json_t *desired = model_defaults(service);
        const json_t *wish = wish_of(wishes, get(service, "service_id"));
        json_object_foreach(json_object_get(wish, "desired"), key, v)
        {
            if (json_is_null(v))
                json_object_del(desired, key);
            else
                json_object_set(desired, key, v);
        }
        if (json_object_size(desired))
            json_array_append_new(out, json_pack("{s:s, s:O}", "service_id",
                                                 get(service, "service_id"), "desired", desired));
        json_decref(desired);
    }
    if (json_array_size(out))
        return out;
    json_decref(out);
    return NULL;
}

/* What does not fit: the first verdict that is not OK. */
static void fail_verdict(struct cw_api_call *call, size_t at, const struct cw_verdicts *v)
{
    for (size_t k = 0; k < v->n; k++)
        if (v->items[k].code != CW_VERDICT_OK) {
            cw_api_fail(call, CW_E_NOT_WRITABLE, "shadow[%zu].desired%s%s: %s.", at,
                        *v->items[k].name ? "." : "", v->items[k].name, v->items[k].text);
            return;
        }
}

static bool check_wish(struct cw_api_call *call, const struct cw_model *m, size_t at,
                       const json_t *wishes)
{
    struct cw_verdicts v = { 0 };
    const json_t *wish = json_array_get(wishes, at), *desired = json_object_get(wish, "desired");
    const char *service_id = get(wish, "service_id"), *bad = bad_shadow_key(desired);
    if (bad) {
        cw_api_fail(call, CW_E_SHADOW_KEY, "shadow[%zu].desired: \"%s\".", at, bad);
        return false;
    }
    if (wish_of(wishes, service_id) != wish) {
        cw_api_fail(call, CW_E_INVALID, "Field \"shadow[%zu].service_id\": \"%s\" is named twice.",
                    at, service_id);
        return false;
    }
    bool fine = cw_model_check_set(m, service_id, desired, &v);
    if (!fine)
        fail_verdict(call, at, &v);
    cw_verdicts_free(&v);
    return fine;
}

bool check_desired(struct cw_api_call *call, const json_t *wishes, const json_t *model)
{
    struct cw_model *m = NULL;
    struct cw_model_error err;
    bool fine = true;
    if (cw_model_compile(&m, model, &err) < 0) {
        cw_api_fail(call, CW_E_INTERNAL, "The stored model is broken at %s: %s.", err.path,
                    err.text);
        return false;
    }
    for (size_t i = 0; fine && i < json_array_size(wishes); i++)
        fine = check_wish(call, m, i, wishes);
    cw_model_free(&m);
    return fine;
}
