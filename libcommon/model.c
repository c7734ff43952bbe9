#include "libcommon/model.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/ids.h"
#include "libcommon/model_internal.h"

#define MODEL_MAX_BYTES (500U << 10)
#define SERVICES_MAX    500
#define MEMBERS_MAX     500 /* properties, commands or events of a service */
#define ROOT            "service_capabilities"

static const char *const type_names[] = {
    [TYPE_INT] = "int",       [TYPE_LONG] = "long",          [TYPE_DECIMAL] = "decimal",
    [TYPE_STRING] = "string", [TYPE_DATE_TIME] = "DateTime", [TYPE_JSON_OBJECT] = "jsonObject",
    [TYPE_ENUM] = "enum",     [TYPE_BOOLEAN] = "boolean",    [TYPE_STRING_LIST] = "string list",
};
static const char *const methods[] = { "RWE", "RW", "RE", "WE", "E", "W", "R" };
static const char *const options[] = { "Master", "Mandatory", "Optional" };

const char *data_type_name(enum data_type type) { return type_names[type]; }

/* ---- names */

/* The slot of name: its own, or the free one where it belongs. */
static uint32_t *names_slot(const struct names *names, const char *name, size_t len)
{
    for (uint32_t at = (uint32_t)cw_hash(name, len);; at++) {
        uint32_t *slot = &names->slot[at & names->mask];
        const char *known = *slot ? names->name[*slot - 1] : NULL;
        if (!known || (strlen(known) == len && memcmp(known, name, len) == 0))
            return slot;
    }
}

int names_find(const struct names *names, const char *name, size_t len)
{
    return names->n ? (int)*names_slot(names, name, len) - 1 : -1;
}

static void names_reserve(struct names *names, size_t n)
{
    uint32_t size = 4;
    while (size < 2 * n)
        size *= 2;
    names->name = cw_calloc(n ? n : 1, sizeof *names->name);
    names->slot = cw_calloc(size, sizeof *names->slot);
    names->mask = size - 1;
}

/* False when the name is there already. */
static bool names_add(struct names *names, const char *name, size_t len)
{
    uint32_t *slot = names_slot(names, name, len);
    if (*slot)
        return false;
    names->name[names->n] = cw_strndup(name, len);
    *slot = ++names->n;
    return true;
}

static void names_free(struct names *names)
{
    for (uint32_t i = 0; i < names->n; i++)
        free(names->name[i]);
    free(names->name);
    free(names->slot);
}

/* ---- where in the model we are */

struct reading {
    char path[224];
    size_t len;
    struct cw_model_error *err;
};

/* Steps into array[index] below the present place; leave() with the returned mark. */
static size_t enter(struct reading *r, const char *array, size_t index)
{
    size_t mark = r->len;
    int n =
        snprintf(r->path + mark, sizeof r->path - mark, "%s%s[%zu]", mark ? "." : "", array, index);
    r->len += (size_t)n;
    return mark;
}

static void leave(struct reading *r, size_t mark)
{
    r->len = mark;
    r->path[mark] = '\0';
}

static int CW_PRINTF(3, 4) fail(struct reading *r, const char *field, const char *fmt, ...)
{
    va_list ap;
    if (!r->err)
        return -EINVAL;
    snprintf(r->err->path, sizeof r->err->path, "%s%s%s", r->path, r->len && *field ? "." : "",
             field);
    va_start(ap, fmt);
    vsnprintf(r->err->text, sizeof r->err->text, fmt, ap);
    va_end(ap);
    return -EINVAL;
}

/* ---- texts */

enum text_class { CLASS_ANY, CLASS_NAME, CLASS_SERVICE, CLASS_PROPERTY };

static bool is_chinese(const unsigned char *s) /* U+4E00…U+9FFF: E4 B8 80 … E9 BF BF */
{
    return s[0] >= 0xe4 && s[0] <= 0xe9 && !(s[0] == 0xe4 && s[1] < 0xb8);
}

/* The first character outside the class, or NULL. s is valid UTF-8. */
static const char *outside_class(const char *s, enum text_class cls)
{
    static const char *const marks[] = { [CLASS_NAME] = "_?'#().,&%@!-",
                                         [CLASS_SERVICE] = "_?'#().,&%@!-$",
                                         [CLASS_PROPERTY] = "_?'#(),&%@!-" };
    for (; cls != CLASS_ANY && *s; s++) {
        const unsigned char *u = (const unsigned char *)s;
        if (is_chinese(u))
            s += 2;
        else if (!((*s >= 'a' && *s <= 'z') || (*s >= 'A' && *s <= 'Z') ||
                   (*s >= '0' && *s <= '9') || strchr(marks[cls], *s)))
            return s;
    }
    return NULL;
}

/* A text member; absent is fine unless it is required. */
static int check_text(struct reading *r, const json_t *o, const char *field, size_t max,
                      enum text_class cls, bool required)
{
    const json_t *v = json_object_get(o, field);
    if (!v || json_is_null(v))
        return required ? fail(r, field, "is required") : 0;
    if (!json_is_string(v))
        return fail(r, field, "must be a string");
    const char *s = json_string_value(v);
    size_t len = json_string_length(v), chars = cw_utf8_len(s, len);
    if (strlen(s) != len)
        return fail(r, field, "contains a NUL character");
    if ((required && chars == 0) || chars > max)
        return fail(r, field, "has %zu characters; %d to %zu are allowed", chars, required, max);
    const char *bad = outside_class(s, cls);
    if (bad)
        return fail(r, field, "contains a character that is not allowed at position %zu",
                    cw_utf8_len(s, (size_t)(bad - s)) + 1);
    return 0;
}

/* The index of the member's value in a list of words; if_absent when it is not there. */
static int check_word(struct reading *r, const json_t *o, const char *field,
                      const char *const *words, size_t n, int if_absent)
{
    char allowed[160] = "";
    size_t len = 0;
    const json_t *v = json_object_get(o, field);
    const char *s = json_string_value(v);
    if ((!v || json_is_null(v)) && if_absent >= 0)
        return if_absent;
    for (size_t i = 0; i < n; i++) {
        if (s && strcmp(s, words[i]) == 0)
            return (int)i;
        if (len < sizeof allowed)
            len += (size_t)snprintf(allowed + len, sizeof allowed - len, "%s%s", i ? ", " : "",
                                    words[i]);
    }
    return fail(r, field, "%s one of %s", v ? "must be" : "is required:", allowed);
}

/* The member as an array; an absent one is NULL in *out. */
static int check_array(struct reading *r, const json_t *o, const char *field, size_t max,
                       const json_t **out)
{
    const json_t *v = json_object_get(o, field);
    *out = NULL;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_array(v))
        return fail(r, field, "must be an array");
    if (json_array_size(v) > max)
        return fail(r, field, "has %zu items; %zu are allowed", json_array_size(v), max);
    *out = v;
    return 0;
}

/* ---- the rule of one value: a property or a para */

static bool is_number_type(enum data_type t) { return t <= TYPE_DECIMAL; }

static int read_bound(struct reading *r, const json_t *o, const char *field, enum data_type type,
                      struct bound *b)
{
    char *end;
    const char *s = json_string_value(json_object_get(o, field));
    int rc = check_text(r, o, field, 16, CLASS_ANY, false);
    if (rc < 0 || !s || !*s || !is_number_type(type))
        return rc;
    b->d = strtod(s, &end);
    if (*end || b->d - b->d != 0 || strpbrk(s, "xX \t\n"))
        return fail(r, field, "must be a number written as text");
    snprintf(b->text, sizeof b->text, "%s", s);
    errno = 0;
    b->i = strtoll(s, &end, 10);
    b->whole = !*end && errno == 0;
    if (!b->whole && type != TYPE_DECIMAL)
        return fail(r, field, "must be a whole number for %s", type_names[type]);
    b->set = true;
    return 0;
}

static int read_range(struct reading *r, const json_t *o, struct value_rule *rule)
{
    int rc = read_bound(r, o, "min", rule->type, &rule->min);
    if (rc == 0)
        rc = read_bound(r, o, "max", rule->type, &rule->max);
    if (rc < 0)
        return rc;
    bool both = rule->min.set && rule->max.set;
    if (both && (rule->min.whole && rule->max.whole ? rule->min.i > rule->max.i
                                                    : rule->min.d > rule->max.d))
        return fail(r, "max", "%s lies below min %s", rule->max.text, rule->min.text);
    const json_t *step = json_object_get(o, "step");
    if (step && !json_is_null(step) && (!json_is_number(step) || json_number_value(step) < 0))
        return fail(r, "step", "must be a number of at least 0");
    if (is_number_type(rule->type))
        rule->step = json_number_value(step);
    return 0;
}

static int read_max_length(struct reading *r, const json_t *o, struct value_rule *rule)
{
    const json_t *v = json_object_get(o, "max_length");
    rule->max_length = -1;
    if (!v || json_is_null(v))
        return 0;
    if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) > INT32_MAX)
        return fail(r, "max_length", "must be a whole number of at least 0");
    /* forms of other platforms send 0 for "not set" with every type */
    if (json_integer_value(v) > 0)
        rule->max_length = json_integer_value(v);
    return 0;
}

static int read_enum(struct reading *r, const json_t *o, struct value_rule *rule)
{
    const json_t *list;
    int rc = check_array(r, o, "enum_list", SIZE_MAX, &list);
    size_t n = json_array_size(list);
    if (rc < 0 || n == 0)
        return rc;
    names_reserve(&rule->allowed, n);
    for (size_t i = 0; i < n; i++) {
        const json_t *v = json_array_get(list, i);
        char field[32];
        snprintf(field, sizeof field, "enum_list[%zu]", i);
        if (!json_is_string(v) || strlen(json_string_value(v)) != json_string_length(v))
            return fail(r, field, "must be a string");
        names_add(&rule->allowed, json_string_value(v), json_string_length(v));
    }
    return 0;
}

static int read_type(struct reading *r, const json_t *o, enum data_type *type)
{
    const char *s = json_string_value(json_object_get(o, "data_type"));
    int rc = s && strcmp(s, "dateTime") == 0 /* older models write it so */
                 ? TYPE_DATE_TIME
                 : check_word(r, o, "data_type", type_names, CW_ARRAY_LEN(type_names), -1);
    if (rc >= 0)
        *type = (enum data_type)rc;
    return rc < 0 ? rc : 0;
}

static int read_value_rule(struct reading *r, const json_t *o, struct value_rule *rule)
{
    const json_t *required = json_object_get(o, "required");
    int rc = read_type(r, o, &rule->type);
    if (rc == 0 && required && !json_is_null(required) && !json_is_boolean(required))
        rc = fail(r, "required", "must be true or false");
    rule->required = json_is_true(required);
    if (rc == 0)
        rc = read_range(r, o, rule);
    if (rc == 0)
        rc = read_max_length(r, o, rule);
    if (rc == 0)
        rc = read_enum(r, o, rule);
    if (rc == 0)
        rc = check_text(r, o, "unit", 16, CLASS_ANY, false);
    if (rc == 0)
        rc = check_text(r, o, "description", 128, CLASS_ANY, false);
    return rc;
}

/* ---- members of a service */

struct name_rule {
    const char *field;
    size_t max;
    enum text_class cls;
};
static const struct name_rule service_name = { "service_id", 64, CLASS_SERVICE },
                              property_name = { "property_name", 64, CLASS_PROPERTY },
                              command_name = { "command_name", 64, CLASS_NAME },
                              para_name = { "para_name", 32, CLASS_NAME },
                              response_name = { "response_name", 128, CLASS_NAME },
                              event_name = { "event_type", 32, CLASS_NAME };

/* The item is an object with a proper name that no other item of the array has. */
static int read_name(struct reading *r, const json_t *o, const struct name_rule *rule,
                     struct names *names)
{
    if (!json_is_object(o))
        return fail(r, "", "must be an object");
    int rc = check_text(r, o, rule->field, rule->max, rule->cls, true);
    if (rc < 0)
        return rc;
    const json_t *v = json_object_get(o, rule->field);
    if (!names_add(names, json_string_value(v), json_string_length(v)))
        return fail(r, rule->field, "\"%s\" is there twice", json_string_value(v));
    return 0;
}

static int read_rules(struct reading *r, const json_t *o, const char *array,
                      const struct name_rule *name, struct names *names, struct value_rule **rules)
{
    const json_t *list;
    int rc = check_array(r, o, array, MEMBERS_MAX, &list);
    size_t n = json_array_size(list);
    names_reserve(names, n);
    *rules = cw_calloc(n ? n : 1, sizeof **rules);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *v = json_array_get(list, i);
        size_t mark = enter(r, array, i);
        if ((rc = read_name(r, v, name, names)) == 0)
            rc = read_value_rule(r, v, &(*rules)[i]);
        if (rc == 0 && name == &property_name) {
            rc = check_word(r, v, "method", methods, CW_ARRAY_LEN(methods), -1);
            (*rules)[i].writable = rc >= 0 && strchr(methods[rc], 'W');
            rc = rc < 0 ? rc : 0;
        }
        leave(r, mark);
    }
    return rc;
}

static void rules_free(struct names *names, struct value_rule *rules)
{
    for (uint32_t i = 0; rules && i < names->n; i++)
        names_free(&rules[i].allowed);
    free(rules);
    names_free(names);
}

/* Items that are checked and kept as they are, but that nothing is compared with: responses and
 * events. */
static int check_items(struct reading *r, const json_t *o, const char *array,
                       const struct name_rule *name)
{
    const json_t *list;
    struct names names = { 0 };
    int rc = check_array(r, o, array, MEMBERS_MAX, &list);
    names_reserve(&names, json_array_size(list));
    for (size_t i = 0; rc == 0 && i < json_array_size(list); i++) {
        struct names para_names = { 0 };
        struct value_rule *paras = NULL;
        size_t mark = enter(r, array, i);
        if ((rc = read_name(r, json_array_get(list, i), name, &names)) == 0)
            rc = read_rules(r, json_array_get(list, i), "paras", &para_name, &para_names, &paras);
        rules_free(&para_names, paras);
        leave(r, mark);
    }
    names_free(&names);
    return rc;
}

static int read_commands(struct reading *r, const json_t *o, struct service *s)
{
    const json_t *list;
    int rc = check_array(r, o, "commands", MEMBERS_MAX, &list);
    size_t n = json_array_size(list);
    names_reserve(&s->command_names, n);
    s->commands = cw_calloc(n ? n : 1, sizeof *s->commands);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *v = json_array_get(list, i);
        struct command *c = &s->commands[i];
        size_t mark = enter(r, "commands", i);
        if ((rc = read_name(r, v, &command_name, &s->command_names)) == 0)
            rc = read_rules(r, v, "paras", &para_name, &c->para_names, &c->paras);
        if (rc == 0)
            rc = check_items(r, v, "responses", &response_name);
        leave(r, mark);
    }
    return rc;
}

static int read_service(struct reading *r, const json_t *o, struct service *s)
{
    int rc = check_text(r, o, "service_type", 64, CLASS_SERVICE, false);
    if (rc == 0)
        rc = check_text(r, o, "description", 128, CLASS_ANY, false);
    if (rc == 0 && (rc = check_word(r, o, "option", options, CW_ARRAY_LEN(options), 2)) > 0)
        rc = 0;
    if (rc == 0)
        rc = read_rules(r, o, "properties", &property_name, &s->property_names, &s->properties);
    if (rc == 0)
        rc = read_commands(r, o, s);
    return rc == 0 ? check_items(r, o, "events", &event_name) : rc;
}

static int read_services(struct reading *r, const json_t *list, struct cw_model *m)
{
    size_t n = json_array_size(list);
    int rc = 0;
    names_reserve(&m->service_names, n);
    m->services = cw_calloc(n ? n : 1, sizeof *m->services);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        const json_t *v = json_array_get(list, i);
        size_t mark = enter(r, ROOT, i);
        if ((rc = read_name(r, v, &service_name, &m->service_names)) == 0)
            rc = read_service(r, v, &m->services[i]);
        leave(r, mark);
    }
    return rc;
}

/* ---- the whole */

int cw_model_compile(struct cw_model **out, const json_t *caps, struct cw_model_error *err)
{
    struct reading r = { .err = err };
    *out = NULL;
    if (json_is_object(caps))
        caps = json_object_get(caps, ROOT);
    if (!json_is_array(caps))
        return fail(&r, ROOT, "must be an array of services");
    if (json_array_size(caps) > SERVICES_MAX)
        return fail(&r, ROOT, "has %zu services; %d are allowed", json_array_size(caps),
                    SERVICES_MAX);
    size_t size = json_dumpb(caps, NULL, 0, JSON_COMPACT);
    if (size > MODEL_MAX_BYTES)
        return fail(&r, ROOT, "has %zu bytes; %u are allowed", size, MODEL_MAX_BYTES);
    struct cw_model *m = cw_calloc(1, sizeof *m);
    int rc = read_services(&r, caps, m);
    if (rc < 0)
        cw_model_free(&m);
    *out = m;
    return rc;
}

int cw_model_parse(struct cw_model **out, const char *text, size_t len, struct cw_model_error *err)
{
    json_error_t at;
    json_t *caps = json_loadb(text, len, 0, &at);
    *out = NULL;
    if (!caps) {
        struct reading r = { .err = err };
        fail(&r, ROOT, "is not JSON at byte %d: %s", at.position, at.text);
        return -EBADMSG;
    }
    int rc = cw_model_compile(out, caps, err);
    json_decref(caps);
    return rc;
}

static void service_free(struct service *s)
{
    rules_free(&s->property_names, s->properties);
    for (uint32_t i = 0; s->commands && i < s->command_names.n; i++)
        rules_free(&s->commands[i].para_names, s->commands[i].paras);
    free(s->commands);
    names_free(&s->command_names);
}

void cw_model_free(struct cw_model **at)
{
    struct cw_model *m = *at;
    if (!m)
        return;
    *at = NULL;
    for (uint32_t i = 0; m->services && i < m->service_names.n; i++)
        service_free(&m->services[i]);
    free(m->services);
    names_free(&m->service_names);
    free(m);
}
