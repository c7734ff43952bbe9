/* A product model, then (after a byte 0xff) a report and a command held against it.
 * links: services/uplink-processor/report.c */
#include "libcommon/json.h"
#include "services/uplink-processor/report.h"
#include "tests/fuzz/fuzz.h"

static void check_report(const struct cw_model *m, const char *text)
{
    struct report r = { 0 };
    struct report_refusal no;
    if (report_read(&r, text, strlen(text), m, 1795581718347, &no) == 0) {
        struct cw_json_error err;
        json_t *event = cw_json_parse(r.event.data, r.event.len, &err);
        json_t *verdicts =
            r.verdicts.len ? cw_json_parse(r.verdicts.data, r.verdicts.len, &err) : NULL;
        fuzz_check(json_is_object(event));
        fuzz_check(!r.n_wrong == !verdicts && !r.code == !verdicts);
        fuzz_check(cw_utf8_valid(r.reason, strlen(r.reason)));
        json_decref(event);
        json_decref(verdicts);
    } else {
        fuzz_check(no.code && cw_utf8_valid(no.reason, strlen(no.reason)));
    }
    report_free(&r);
}

static void check_command(const struct cw_model *m, const char *text)
{
    struct cw_verdicts v = { 0 };
    struct cw_json_error err;
    json_t *o = cw_json_parse(text, strlen(text), &err);
    const char *service = cw_json_text(o, "service_id"), *name = cw_json_text(o, "command_name");
    if (service && name)
        cw_model_check_command(m, service, name, json_object_get(o, "paras"), &v);
    if (service && json_is_object(json_object_get(o, "properties")))
        cw_model_check_set(m, service, json_object_get(o, "properties"), &v);
    cw_verdicts_free(&v);
    json_decref(o);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct cw_model *m = NULL;
    struct cw_model_error err = { 0 };
    char *model = fuzz_part(&data, &size), *report = fuzz_part(&data, &size),
         *command = fuzz_part(&data, &size);
    if (cw_model_parse(&m, model, strlen(model), &err) < 0) {
        fuzz_check(err.text[0]);
        check_report(NULL, report);
    } else {
        check_report(m, report);
        check_command(m, command);
    }
    cw_model_free(&m);
    free(model);
    free(report);
    free(command);
    return 0;
}
