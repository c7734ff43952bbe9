#include "libcommon/validate.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"
#include "libcommon/json.h"

/* Where we are in the body; each level lives in the frame of its caller. */
struct place {
    const struct place *up;
    const char *name; /* NULL: an item */
    size_t index;
};

struct check {
    struct cw_refusal *r;
    bool changed;
};

static void write_place(char *out, size_t size, const struct place *p)
{
    if (!p)
        return;
    write_place(out, size, p->up);
    size_t used = strlen(out);
    if (p->name)
        snprintf(out + used, size - used, "%s%s", used ? "." : "", p->name);
    else
        snprintf(out + used, size - used, "[%zu]", p->index);
}

static int refuse(struct check *c, const struct place *at, enum cw_error e, const char *fmt, ...)
    CW_PRINTF(4, 5);
static int refuse(struct check *c, const struct place *at, enum cw_error e, const char *fmt, ...)
{
    char where[256] = "", what[200];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof what, fmt, ap);
    va_end(ap);
    write_place(where, sizeof where, at);
    c->r->error = e;
    if (*where)
        snprintf(c->r->text, sizeof c->r->text, "Field \"%s\": %s.", where, what);
    else
        snprintf(c->r->text, sizeof c->r->text, "Body: %s.", what);
    return -EINVAL;
}

static unsigned type_bit(const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_STRING:
        return CW_T_STRING;
    case JSON_INTEGER:
        return CW_T_INT | CW_T_NUMBER;
    case JSON_REAL:
        return CW_T_NUMBER;
    case JSON_TRUE:
    case JSON_FALSE:
        return CW_T_BOOL;
    case JSON_OBJECT:
        return CW_T_OBJECT;
    case JSON_ARRAY:
        return CW_T_ARRAY;
    case JSON_NULL:
        return CW_T_NULL;
    }
    return 0;
}

static const char *type_names(char *out, size_t size, unsigned types)
{
    static const char *const names[] = { "a string",  "an integer", "a number", "true or false",
                                         "an object", "an array",   "null" };
    *out = '\0';
    for (size_t i = 0; i < CW_ARRAY_LEN(names); i++)
        if (types & 1U << i) {
            size_t used = strlen(out);
            snprintf(out + used, size - used, "%s%s", used ? " or " : "", names[i]);
        }
    return out;
}

/* s is well-formed UTF-8. */
static uint32_t next_point(const char **s)
{
    const unsigned char *p = (const unsigned char *)*s;
    int more = *p >= 0xf0 ? 3 : *p >= 0xe0 ? 2 : *p >= 0xc0 ? 1 : 0;
    uint32_t cp = more == 0 ? *p : *p & (0x3fU >> more);
    for (int i = 1; i <= more; i++)
        cp = cp << 6 | (p[i] & 0x3f);
    *s += more + 1;
    return cp;
}

static bool in_class(const struct cw_char_class *cls, uint32_t cp)
{
    if (cp < 128)
        return cls->ascii[cp / 32] >> cp % 32 & 1;
    for (size_t i = 0; i < cls->n_ranges; i++)
        if (cp >= cls->ranges[i].from && cp <= cls->ranges[i].to)
            return true;
    return false;
}

static int check_enum(struct check *c, const struct place *at, enum cw_error e,
                      const struct cw_schema *s, const char *text)
{
    char list[160] = "";
    for (const char *const *v = s->enums; *v; v++) {
        if (strcmp(*v, text) == 0)
            return 0;
        size_t used = strlen(list);
        snprintf(list + used, sizeof list - used, "%s%s", used ? ", " : "", *v);
    }
    return refuse(c, at, e, "must be one of %s", list);
}

static int check_string(struct check *c, const struct place *at, enum cw_error e,
                        const struct cw_schema *s, const char *text, size_t len)
{
    int64_t ms;
    size_t n = cw_utf8_len(text, len);
    if (s->basic_time && cw_time_parse_basic(&ms, text) < 0)
        return refuse(c, at, e, "must be a time such as 20260105T081503Z");
    if (s->enums)
        return check_enum(c, at, e, s, text);
    if (n < s->min_len || n > s->max_len) {
        if (s->max_len == UINT32_MAX)
            return refuse(c, at, e, "must have at least %u characters", s->min_len);
        return refuse(c, at, e, "must have %u to %u characters, not %zu", s->min_len, s->max_len,
                      n);
    }
    for (const char *p = text; s->chars && *p;) {
        uint32_t cp = next_point(&p);
        if (!in_class(s->chars, cp))
            return refuse(c, at, e, "character U+%04X is not allowed", cp);
    }
    return 0;
}

static int check_int(struct check *c, const struct place *at, enum cw_error e,
                     const struct cw_schema *s, int64_t v)
{
    if (v < s->min || v > s->max)
        return refuse(c, at, e, "must be %" PRId64 " to %" PRId64, s->min, s->max);
    if (s->multiple && v % s->multiple)
        return refuse(c, at, e, "must be a multiple of %" PRId64, s->multiple);
    return 0;
}

static int check_value(struct check *c, const struct place *at, const struct cw_schema *s,
                       json_t *v);

static int check_array(struct check *c, const struct place *at, const struct cw_schema *s,
                       json_t *v)
{
    size_t n = json_array_size(v);
    if (n < s->min_len || n > s->max_len)
        return refuse(c, at, CW_E_INVALID, "must have %u to %u items, not %zu", s->min_len,
                      s->max_len, n);
    for (size_t i = 0; s->items && i < n; i++)
        if (check_value(c, &(struct place){ at, NULL, i }, s->items, json_array_get(v, i)) < 0)
            return -EINVAL;
    return 0;
}

static int check_object(struct check *c, const struct place *at, const struct cw_schema *s,
                        json_t *v)
{
    for (size_t i = 0; i < s->n_fields; i++) {
        const struct cw_field *f = &s->fields[i];
        struct place here = { at, f->name, 0 };
        json_t *member = json_object_get(v, f->name);
        if (json_is_null(member) && !(f->schema->types & CW_T_NULL)) {
            json_object_del(v, f->name);
            c->changed = true;
            member = NULL;
        }
        if (!member && f->required)
            return refuse(c, &here, CW_E_INVALID, "is required");
        if (member && check_value(c, &here, f->schema, member) < 0)
            return -EINVAL;
    }
    return 0;
}

static int check_bytes(struct check *c, const struct place *at, const struct cw_schema *s,
                       const json_t *v)
{
    struct cw_buf text = { 0 };
    cw_json_write(&text, v);
    size_t n = text.len;
    cw_buf_free(&text);
    if (n > s->max_bytes)
        return refuse(c, at, CW_E_INVALID, "may take %u bytes as JSON, not %zu", s->max_bytes, n);
    return 0;
}

static int check_value(struct check *c, const struct place *at, const struct cw_schema *s,
                       json_t *v)
{
    char names[64];
    int rc = 0;
    if (!(s->types & type_bit(v)))
        return refuse(c, at, CW_E_INVALID, "must be %s",
                      type_names(names, sizeof names, s->types & ~(unsigned)CW_T_NULL));
    if (json_is_string(v))
        rc = check_string(c, at, CW_E_INVALID, s, json_string_value(v), json_string_length(v));
    else if (json_is_integer(v) && s->types != CW_T_ANY)
        rc = check_int(c, at, CW_E_INVALID, s, json_integer_value(v));
    else if (json_is_array(v))
        rc = check_array(c, at, s, v);
    else if (json_is_object(v))
        rc = check_object(c, at, s, v);
    return rc == 0 && s->max_bytes ? check_bytes(c, at, s, v) : rc;
}

int cw_validate_body(struct cw_refusal *r, bool *changed, const struct cw_schema *schema,
                     json_t *body)
{
    struct check c = { .r = r };
    int rc = check_value(&c, NULL, schema, body);
    *changed = c.changed;
    return rc;
}

static int refuse_param(struct check *c, const struct place *at, const struct cw_param *p,
                        const char *what)
{
    return refuse(c, at, p->error, "%s", what);
}

int cw_validate_param(struct cw_refusal *r, const struct cw_param *param, const char *value)
{
    struct check c = { .r = r };
    struct place at = { NULL, param->name, 0 };
    const struct cw_schema *s = param->schema;
    size_t len = strlen(value);
    if (!cw_utf8_valid(value, len))
        return refuse_param(&c, &at, param, "is not UTF-8");
    if (s->types & CW_T_INT) {
        char *end;
        errno = 0;
        long long v = strtoll(value, &end, 10);
        if (errno || end == value || *end || strspn(value, "-0123456789") != len)
            return refuse_param(&c, &at, param, "must be an integer");
        return check_int(&c, &at, param->error, s, v);
    }
    if (s->types & CW_T_BOOL)
        return strcmp(value, "true") == 0 || strcmp(value, "false") == 0
                   ? 0
                   : refuse_param(&c, &at, param, "must be true or false");
    return check_string(&c, &at, param->error, s, value, len);
}

int cw_validate_order(struct cw_refusal *r, const char *start_time, const char *end_time)
{
    struct check c = { .r = r };
    int64_t start_ms, end_ms;
    if (!start_time || !end_time || cw_time_parse_basic(&start_ms, start_time) < 0 ||
        cw_time_parse_basic(&end_ms, end_time) < 0 || start_ms < end_ms)
        return 0;
    return refuse(&c, &(struct place){ NULL, "start_time", 0 }, CW_E_TIME_ORDER,
                  "lies not before end_time");
}
