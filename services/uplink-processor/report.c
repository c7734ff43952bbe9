#include "services/uplink-processor/report.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"

#define VERDICTS_MAX 50 /* listed of one report; the others are counted */

void text_cut(char *out, size_t size, const char *text, size_t len)
{
    size_t n = len < size - 1 ? len : size - 1;
    if (n)
        memcpy(out, text, n);
    while (n < len && n > 0 && ((unsigned char)text[n] & 0xc0) == 0x80)
        n--;
    out[n] = '\0';
    if (cw_utf8_valid(out, n))
        return;
    for (size_t i = 0; i < n; i++)
        if ((unsigned char)out[i] >= 0x80 || out[i] == '\0')
            out[i] = '?';
}

static const struct {
    const char *code, *next_step;
} steps[] = {
    { "unknown_service",
      "Correct service_id in the device, or add the service to the product's model." },
    { "unknown_property",
      "Correct the property's name in the device, or add the property to the product's model." },
    { "wrong_type", "Send the type that the model states, or change the model." },
    { "out_of_range", "Send a value within min, max and step of the model, or change the model." },
    { "not_in_enum", "Send one of the model's values, or add the value to the model." },
    { "too_long", "Send a shorter value, or raise max_length in the model." },
    { "malformed", "Send {\"service_id\":\"…\",\"properties\":{…}} for each service." },
};

const char *report_next_step(const char *code)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(steps); i++)
        if (strcmp(steps[i].code, code) == 0)
            return steps[i].next_step;
    return "Compare the report with the product's model.";
}

static int refuse(struct report_refusal *r, const char *code, const char *next_step,
                  const char *fmt, ...) CW_PRINTF(4, 5);
static int refuse(struct report_refusal *r, const char *code, const char *next_step,
                  const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(r->reason, sizeof r->reason, fmt, ap);
    va_end(ap);
    r->code = code;
    r->next_step = next_step;
    return -EBADMSG;
}

static void buf_text(struct cw_buf *b, const char *text)
{
    cw_buf_json_string(b, text, strlen(text));
}

/* "Pump.flow: expected decimal, found string": what a person reads first. */
static void first_reason(struct report *r, const char *service_id, const char *name,
                         const char *text)
{
    struct cw_buf b = { 0 };
    if (service_id)
        cw_buf_printf(&b, "%s%s%s: ", service_id, name && *name ? "." : "", name ? name : "");
    cw_buf_str(&b, text);
    text_cut(r->reason, sizeof r->reason - 64, b.data, b.len);
    cw_buf_free(&b);
}

/* Notes one item that is wrong. */
static void wrong(struct report *r, const char *code, const char *service_id, const char *name,
                  const char *text)
{
    char cut[400];
    text_cut(cut, sizeof cut, text, strlen(text));
    if (r->n_wrong >= VERDICTS_MAX) {
        r->n_wrong++;
        return;
    }
    cw_buf_str(&r->verdicts, r->n_wrong ? ",{\"code\":" : "[{\"code\":");
    buf_text(&r->verdicts, code);
    if (service_id) {
        cw_buf_str(&r->verdicts, ",\"service_id\":");
        buf_text(&r->verdicts, service_id);
    }
    if (name && *name) {
        cw_buf_str(&r->verdicts, ",\"property\":");
        buf_text(&r->verdicts, name);
    }
    cw_buf_str(&r->verdicts, ",\"text\":");
    buf_text(&r->verdicts, cut);
    cw_buf_str(&r->verdicts, "}");
    if (r->n_wrong++ == 0) {
        r->code = code;
        first_reason(r, service_id, name, cut);
    }
}

/* What the device gave if it is a time, else when the report was received. */
static void read_time(const json_t *service, int64_t received_ms, char basic[32], char given[64])
{
    const char *text = cw_json_text(service, "event_time");
    int64_t ms;
    if (text && strlen(text) < 64 && cw_time_parse_any(&ms, text, strlen(text)) == 0) {
        cw_time_basic(basic, ms);
        strcpy(given, text);
    } else {
        cw_time_basic(basic, received_ms);
        strcpy(given, basic);
    }
}

static void state_service(struct report *r, const char *service_id, const json_t *properties,
                          const char *time)
{
    cw_buf_str(&r->event, r->n_services++ ? ",{\"service_id\":" : "{\"service_id\":");
    buf_text(&r->event, service_id);
    cw_buf_str(&r->event, ",\"properties\":");
    cw_json_write(&r->event, properties);
    cw_buf_str(&r->event, ",\"event_time\":");
    buf_text(&r->event, time);
    cw_buf_str(&r->event, "}");
}

/* What the shadow takes: all of it (shared), or a copy without what does not fit. */
static json_t *fitting(const struct report *r, json_t *properties)
{
    if (r->scratch.bad == 0)
        return json_incref(properties);
    json_t *kept = json_object();
    for (size_t i = 0; i < r->scratch.n; i++) {
        const struct cw_verdict *v = &r->scratch.items[i];
        if (cw_verdict_kept(v->code))
            json_object_set(kept, v->name, json_object_get(properties, v->name));
    }
    return kept;
}

static void check_service(struct report *r, const char *service_id, json_t *properties,
                          const struct cw_model *model, const char *time)
{
    cw_verdicts_reset(&r->scratch);
    if (!model) {
        wrong(r, "unknown_service", service_id, NULL, "The product has no model.");
        return;
    }
    cw_model_check_report(model, service_id, properties, &r->scratch);
    for (size_t i = 0; i < r->scratch.n; i++) {
        const struct cw_verdict *v = &r->scratch.items[i];
        if (v->code != CW_VERDICT_OK)
            wrong(r, cw_verdict_name(v->code), service_id, v->name, v->text);
    }
    json_t *kept = fitting(r, properties);
    if (json_object_size(kept) == 0) { /* touches nothing */
        json_decref(kept);
        return;
    }
    if (r->n_parts == r->cap_parts) {
        r->cap_parts = r->cap_parts ? 2 * r->cap_parts : 4;
        r->parts = cw_realloc(r->parts, r->cap_parts * sizeof *r->parts);
    }
    struct report_part *part = &r->parts[r->n_parts++];
    *part = (struct report_part){ .service_id = service_id, .kept = kept };
    strcpy(part->time, time);
}

static void read_service(struct report *r, json_t *service, size_t index,
                         const struct cw_model *model, int64_t received_ms)
{
    char text[96], basic[32], given[64];
    const char *service_id = cw_json_text(service, "service_id");
    json_t *properties = json_object_get(service, "properties");
    if (!service_id || !json_is_object(properties)) {
        snprintf(text, sizeof text, "services[%zu] has no %s.", index,
                 service_id ? "properties that are an object" : "service_id");
        wrong(r, "malformed", service_id, NULL, text);
        return;
    }
    read_time(service, received_ms, basic, given);
    state_service(r, service_id, properties, given);
    check_service(r, service_id, properties, model, basic);
}

static void end_texts(struct report *r)
{
    cw_buf_str(&r->event, "]}");
    if (r->n_wrong == 0)
        return;
    if (r->n_wrong > VERDICTS_MAX)
        cw_buf_printf(&r->verdicts, ",{\"code\":\"more\",\"text\":\"And %zu more.\"}",
                      r->n_wrong - VERDICTS_MAX);
    cw_buf_str(&r->verdicts, "]");
    if (r->n_wrong > 1) {
        size_t n = strlen(r->reason);
        snprintf(r->reason + n, sizeof r->reason - n, " (and %zu more in this report)",
                 r->n_wrong - 1);
    }
}

int report_read(struct report *r, const void *data, size_t len, const struct cw_model *model,
                int64_t received_ms, struct report_refusal *refusal)
{
    struct cw_json_error err;
    if (len > REPORT_MAX_BYTES)
        return refuse(refusal, "too_large", "Send smaller reports.",
                      "The report has %zu bytes; %u are allowed.", len, REPORT_MAX_BYTES);
    json_t *root = cw_json_parse(data, len, &err);
    if (!root)
        return refuse(refusal, "not_json", "Send well-formed JSON in UTF-8.",
                      "The report (%zu bytes) is not JSON that can be kept: %s.", len, err.text);
    return report_take(r, root, model, received_ms, refusal);
}

int report_take(struct report *r, json_t *root, const struct cw_model *model, int64_t received_ms,
                struct report_refusal *refusal)
{
    r->root = root;
    json_t *services = json_object_get(r->root, "services");
    if (!json_is_array(services))
        return refuse(refusal, "no_services",
                      "Send {\"services\":[{\"service_id\":\"…\",\"properties\":{…}}]}.",
                      "The report is JSON, but has no list named services.");
    cw_buf_str(&r->event, "{\"services\":[");
    size_t i;
    json_t *service;
    json_array_foreach(services, i, service) read_service(r, service, i, model, received_ms);
    end_texts(r);
    return 0;
}

void report_reset(struct report *r)
{
    for (size_t i = 0; i < r->n_parts; i++)
        json_decref(r->parts[i].kept);
    r->n_parts = r->n_services = r->n_wrong = 0;
    json_decref(r->root);
    r->root = NULL;
    r->code = NULL;
    r->reason[0] = '\0';
    cw_buf_reset(&r->event);
    cw_buf_reset(&r->verdicts);
    cw_verdicts_reset(&r->scratch);
}

void report_free(struct report *r)
{
    report_reset(r);
    free(r->parts);
    cw_buf_free(&r->event);
    cw_buf_free(&r->verdicts);
    cw_verdicts_free(&r->scratch);
    *r = (struct report){ 0 };
}
