#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/alike.h"
#include "libcommon/model_internal.h"

#define SAMPLE_BYTES 64 /* of a value or a foreign name in a text */
#define NEARBY_MAX   8  /* look-ups by likeness in one list of verdicts */

static const struct {
    const char *name;
    bool kept;
} codes[] = {
    [CW_VERDICT_OK] = { "ok", true },
    [CW_VERDICT_UNKNOWN_SERVICE] = { "unknown_service", false },
    [CW_VERDICT_UNKNOWN_PROPERTY] = { "unknown_property", false },
    [CW_VERDICT_UNKNOWN_COMMAND] = { "unknown_command", false },
    [CW_VERDICT_UNKNOWN_PARA] = { "unknown_para", false },
    [CW_VERDICT_MISSING] = { "missing", false },
    [CW_VERDICT_WRONG_TYPE] = { "wrong_type", false },
    [CW_VERDICT_OUT_OF_RANGE] = { "out_of_range", true },
    [CW_VERDICT_NOT_IN_ENUM] = { "not_in_enum", false },
    [CW_VERDICT_TOO_LONG] = { "too_long", false },
    [CW_VERDICT_NOT_WRITABLE] = { "not_writable", false },
};

const char *cw_verdict_name(enum cw_verdict_code code) { return codes[code].name; }
bool cw_verdict_kept(enum cw_verdict_code code) { return codes[code].kept; }

void cw_verdicts_reset(struct cw_verdicts *v)
{
    for (size_t i = 0; i < v->n; i++)
        free(v->items[i].text);
    v->n = v->bad = v->nearby = 0;
}

void cw_verdicts_free(struct cw_verdicts *v)
{
    cw_verdicts_reset(v);
    free(v->items);
    *v = (struct cw_verdicts){ 0 };
}

/* What a check is about, and where its verdicts go. */
struct check {
    struct cw_verdicts *out;
    const char *service_id;
};

/* Takes text. */
static void add(struct check *c, enum cw_verdict_code code, const char *name, char *text)
{
    struct cw_verdicts *v = c->out;
    if (v->n == v->cap) {
        v->cap = v->cap ? 2 * v->cap : 16;
        v->items = cw_realloc(v->items, v->cap * sizeof *v->items);
    }
    v->items[v->n++] = (struct cw_verdict){ code, c->service_id, name, text };
    v->bad += code != CW_VERDICT_OK;
}

/* ---- names that are near */

static const char *nearest(const struct names *names, const char *name, struct cw_verdicts *out)
{
    size_t len = strlen(name);
    if (len > CW_ALIKE_MAX || len < 2 || out->nearby++ >= NEARBY_MAX)
        return NULL;
    return cw_alike(name, len, (const char *const *)names->name, names->n);
}

/* Adds s in quotes, cut to a sample at a character's edge. */
static void quote(struct cw_buf *b, const char *s)
{
    size_t len = strlen(s), n = len;
    if (n > SAMPLE_BYTES)
        for (n = SAMPLE_BYTES; n > 0 && ((unsigned char)s[n] & 0xc0) == 0x80;)
            n--;
    cw_buf_str(b, "\"");
    cw_buf_add(b, s, n);
    cw_buf_str(b, n < len ? "…\"" : "\"");
}

static char *unknown_text(const struct names *names, const char *name, const char *what,
                          struct cw_verdicts *out)
{
    struct cw_buf b = { 0 };
    const char *near = nearest(names, name, out);
    cw_buf_printf(&b, "the model has no %s ", what);
    quote(&b, name);
    if (near)
        cw_buf_printf(&b, "; did you mean \"%s\"?", near);
    else if (names->n == 0)
        cw_buf_str(&b, "; it has none");
    for (uint32_t i = 0; !near && i < names->n && i < 5; i++)
        cw_buf_printf(&b, "%s%s", i ? ", " : "; it has ", names->name[i]);
    if (!near && names->n > 5)
        cw_buf_printf(&b, " and %u more", names->n - 5);
    return b.data;
}

/* ---- values */

static const char *json_kind(const json_t *v)
{
    static const char *const kinds[] = {
        [JSON_OBJECT] = "an object", [JSON_ARRAY] = "an array", [JSON_STRING] = "string",
        [JSON_INTEGER] = "integer",  [JSON_REAL] = "decimal",   [JSON_TRUE] = "true",
        [JSON_FALSE] = "false",      [JSON_NULL] = "null",
    };
    return v ? kinds[json_typeof(v)] : "nothing";
}

static void describe(struct cw_buf *b, const json_t *v)
{
    cw_buf_str(b, json_kind(v));
    if (json_is_string(v)) {
        cw_buf_str(b, " ");
        quote(b, json_string_value(v));
    } else if (json_is_integer(v))
        cw_buf_printf(b, " %" JSON_INTEGER_FORMAT, json_integer_value(v));
    else if (json_is_real(v))
        cw_buf_printf(b, " %.15g", json_real_value(v));
}

static char *wrong_type_text(const char *expected, const json_t *found)
{
    struct cw_buf b = { 0 };
    cw_buf_printf(&b, "expected %s, found ", expected);
    describe(&b, found);
    return b.data;
}

static bool is_list_of_strings(const json_t *v)
{
    for (size_t i = 0; i < json_array_size(v); i++)
        if (!json_is_string(json_array_get(v, i)))
            return false;
    return json_is_array(v);
}

static bool fits_type(enum data_type type, const json_t *v)
{
    switch (type) {
    case TYPE_INT:
        return json_is_integer(v) && json_integer_value(v) >= INT32_MIN &&
               json_integer_value(v) <= INT32_MAX;
    case TYPE_LONG:
        return json_is_integer(v);
    case TYPE_DECIMAL:
        return json_is_number(v);
    case TYPE_STRING:
    case TYPE_DATE_TIME: /* its form is not enforced: devices write several */
    case TYPE_ENUM:
        return json_is_string(v);
    case TYPE_JSON_OBJECT:
        return json_is_object(v) || json_is_array(v);
    case TYPE_BOOLEAN:
        return json_is_boolean(v) || (json_is_integer(v) && (uint64_t)json_integer_value(v) <= 1);
    case TYPE_STRING_LIST:
        return is_list_of_strings(v);
    }
    return false;
}

static int compare(const json_t *v, const struct bound *b)
{
    if (json_is_integer(v) && b->whole)
        return (json_integer_value(v) > b->i) - (json_integer_value(v) < b->i);
    double d = json_number_value(v);
    return (d > b->d) - (d < b->d);
}

/* A value is on a step when it is a whole number of steps from min (or 0), up to rounding. */
static bool on_step(const json_t *v, const struct value_rule *rule)
{
    if (rule->step <= 0)
        return true;
    double steps = (json_number_value(v) - (rule->min.set ? rule->min.d : 0)) / rule->step;
    if (steps > 1e9 || steps < -1e9) /* beyond what a double can tell */
        return true;
    double off = steps - (double)(int64_t)(steps + (steps < 0 ? -0.5 : 0.5));
    return off < 1e-6 && off > -1e-6;
}

static enum cw_verdict_code check_range(const struct value_rule *rule, const json_t *v, char **text)
{
    bool low = rule->min.set && compare(v, &rule->min) < 0;
    bool high = rule->max.set && compare(v, &rule->max) > 0;
    if (!low && !high && on_step(v, rule))
        return CW_VERDICT_OK;
    struct cw_buf b = { 0 };
    cw_buf_str(&b, "found ");
    describe(&b, v);
    if (low || high)
        cw_buf_printf(&b, ", allowed %s%s%s", rule->min.set ? rule->min.text : "at most ",
                      rule->min.set ? ".." : "", rule->max.set ? rule->max.text : "");
    else
        cw_buf_printf(&b, ", allowed steps of %.15g from %s", rule->step,
                      rule->min.set ? rule->min.text : "0");
    *text = b.data;
    return CW_VERDICT_OUT_OF_RANGE;
}

static enum cw_verdict_code too_long(const struct value_rule *rule, size_t found, const char *unit,
                                     char **text)
{
    if (rule->max_length < 0 || found <= (size_t)rule->max_length)
        return CW_VERDICT_OK;
    *text = cw_sprintf("%zu %s, allowed %" PRId64, found, unit, rule->max_length);
    return CW_VERDICT_TOO_LONG;
}

static enum cw_verdict_code check_string(const struct value_rule *rule, const json_t *v,
                                         char **text)
{
    const char *s = json_string_value(v);
    size_t len = json_string_length(v);
    if (rule->allowed.n && names_find(&rule->allowed, s, len) < 0) {
        struct cw_buf b = { 0 };
        cw_buf_str(&b, "found ");
        quote(&b, s);
        for (uint32_t i = 0; i < rule->allowed.n && i < 10; i++) {
            cw_buf_str(&b, i ? ", " : ", allowed ");
            quote(&b, rule->allowed.name[i]);
        }
        if (rule->allowed.n > 10)
            cw_buf_printf(&b, " and %u more", rule->allowed.n - 10);
        *text = b.data;
        return CW_VERDICT_NOT_IN_ENUM;
    }
    return too_long(rule, cw_utf8_len(s, len), "characters", text);
}

static enum cw_verdict_code check_value(const struct value_rule *rule, const json_t *v, char **text)
{
    if (!fits_type(rule->type, v)) {
        *text = wrong_type_text(data_type_name(rule->type), v);
        return CW_VERDICT_WRONG_TYPE;
    }
    enum cw_verdict_code code = CW_VERDICT_OK;
    switch (rule->type) {
    case TYPE_INT:
    case TYPE_LONG:
    case TYPE_DECIMAL:
        return check_range(rule, v, text);
    case TYPE_STRING:
    case TYPE_DATE_TIME:
    case TYPE_ENUM:
        return check_string(rule, v, text);
    case TYPE_JSON_OBJECT:
        return rule->max_length < 0
                   ? CW_VERDICT_OK
                   : too_long(rule, json_dumpb(v, NULL, 0, JSON_COMPACT), "bytes", text);
    case TYPE_STRING_LIST:
        for (size_t i = 0; code == CW_VERDICT_OK && i < json_array_size(v); i++)
            code = check_string(rule, json_array_get(v, i), text);
        return code;
    case TYPE_BOOLEAN:
        break;
    }
    return code;
}

/* ---- reports, wishes, commands */

static const struct service *find_service(struct check *c, const struct cw_model *m)
{
    int at = names_find(&m->service_names, c->service_id, strlen(c->service_id));
    if (at >= 0)
        return &m->services[at];
    add(c, CW_VERDICT_UNKNOWN_SERVICE, "",
        unknown_text(&m->service_names, c->service_id, "service", c->out));
    return NULL;
}

static void check_property(struct check *c, const struct service *s, const char *name,
                           const json_t *v, bool set)
{
    char *text = NULL;
    int at = names_find(&s->property_names, name, strlen(name));
    enum cw_verdict_code code;
    if (at < 0) {
        code = CW_VERDICT_UNKNOWN_PROPERTY;
        text = unknown_text(&s->property_names, name, "property", c->out);
    } else if (set && !s->properties[at].writable) {
        code = CW_VERDICT_NOT_WRITABLE;
        text = cw_strdup("its method in the model has no W");
    } else if (set && json_is_null(v))
        code = CW_VERDICT_OK;
    else
        code = check_value(&s->properties[at], v, &text);
    add(c, code, name, text);
}

static bool check_properties(const struct cw_model *m, const char *service_id,
                             const json_t *properties, struct cw_verdicts *out, bool set)
{
    struct check c = { out, service_id };
    size_t bad = out->bad;
    const struct service *s = find_service(&c, m);
    if (s && !json_is_object(properties))
        add(&c, CW_VERDICT_WRONG_TYPE, "", wrong_type_text("an object of properties", properties));
    for (void *it = s ? json_object_iter((json_t *)properties) : NULL; it;
         it = json_object_iter_next((json_t *)properties, it))
        check_property(&c, s, json_object_iter_key(it), json_object_iter_value(it), set);
    return out->bad == bad;
}

bool cw_model_check_report(const struct cw_model *m, const char *service_id,
                           const json_t *properties, struct cw_verdicts *out)
{
    return check_properties(m, service_id, properties, out, false);
}

bool cw_model_check_set(const struct cw_model *m, const char *service_id, const json_t *properties,
                        struct cw_verdicts *out)
{
    return check_properties(m, service_id, properties, out, true);
}

static void check_paras(struct check *c, const struct command *cmd, const json_t *paras)
{
    for (void *it = json_object_iter((json_t *)paras); it;
         it = json_object_iter_next((json_t *)paras, it)) {
        char *text = NULL;
        const char *name = json_object_iter_key(it);
        int at = names_find(&cmd->para_names, name, strlen(name));
        enum cw_verdict_code code = CW_VERDICT_UNKNOWN_PARA;
        if (at < 0)
            text = unknown_text(&cmd->para_names, name, "para", c->out);
        else
            code = check_value(&cmd->paras[at], json_object_iter_value(it), &text);
        add(c, code, name, text);
    }
    for (uint32_t i = 0; i < cmd->para_names.n; i++)
        if (cmd->paras[i].required && !json_object_get(paras, cmd->para_names.name[i]))
            add(c, CW_VERDICT_MISSING, cmd->para_names.name[i],
                cw_sprintf("required para of type %s", data_type_name(cmd->paras[i].type)));
}

bool cw_model_check_command(const struct cw_model *m, const char *service_id,
                            const char *command_name, const json_t *paras, struct cw_verdicts *out)
{
    struct check c = { out, service_id };
    size_t bad = out->bad;
    const struct service *s = find_service(&c, m);
    int at = s ? names_find(&s->command_names, command_name, strlen(command_name)) : -1;
    if (s && at < 0)
        add(&c, CW_VERDICT_UNKNOWN_COMMAND, "",
            unknown_text(&s->command_names, command_name, "command", out));
    else if (s && paras && !json_is_null(paras) && !json_is_object(paras))
        add(&c, CW_VERDICT_WRONG_TYPE, "", wrong_type_text("an object of paras", paras));
    else if (s)
        check_paras(&c, &s->commands[at], paras);
    return out->bad == bad;
}
