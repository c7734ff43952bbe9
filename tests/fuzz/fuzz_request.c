/* Method and target of a request, found in the routes; its body held against the operation's
 * schema. The parts are ended by a byte 0xff. links:
 * services/rest-gateway/route.c */
#include "libcommon/json.h"
#include "libcommon/validate.h"
#include "services/rest-gateway/route.h"
#include "tests/fuzz/fuzz.h"

static void check(const struct cw_route *route, const uint8_t *data, size_t size)
{
    struct cw_refusal no = { 0 };
    struct cw_json_error err;
    bool changed = false;
    json_t *body = route->body ? cw_json_parse(data, size, &err) : NULL;
    if (body && cw_validate_body(&no, &changed, route->body, body) < 0)
        fuzz_check(no.text[0] && cw_utf8_valid(no.text, strlen(no.text)));
    json_decref(body);
    char *value = fuzz_part(&data, &size);
    for (size_t i = 0; i < route->n_query_params; i++)
        cw_validate_param(&no, &route->query_params[i], value);
    free(value);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct route_match m;
    char *method = fuzz_part(&data, &size), *path = fuzz_part(&data, &size);
    if (route_find(&m, method, path) == 0) {
        check(m.route, data, size);
        route_match_free(&m);
    }
    free(method);
    free(path);
    return 0;
}
