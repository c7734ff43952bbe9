#include "services/uplink-processor/draft.h"

#include <stdlib.h>
#include <string.h>

#include "libcommon/clock.h"

#define VALUE_SHOWN 200 /* bytes of a value's text in the answer */

/* What a value is, from which the type of its property follows. */
enum trait {
    BIT_INT,   /* 0, 1 */
    SMALL_INT, /* of 32 bits */
    LARGE_INT, /* of 64 bits */
    REAL,
    BOOL,
    TIME, /* a text that is a time */
    TEXT,
    TEXTS,     /* an array of texts */
    STRUCTURE, /* an object, or an array of other things */
    TRAITS,
};

enum type {
    T_BOOLEAN,
    T_INT,
    T_LONG,
    T_DECIMAL,
    T_TIME,
    T_STRING,
    T_LIST,
    T_OBJECT,
    TYPES,
};

#define BIT(t) (1U << (t))
/* Narrow before wide: what each type takes, and the traits of which the first decided that it is no
 * narrower one. */
static const struct {
    const char *name;
    unsigned takes, decides;
} types[TYPES] = {
    [T_BOOLEAN] = { "boolean", BIT(BOOL) | BIT(BIT_INT), BIT(BOOL) },
    [T_INT] = { "int", BIT(BIT_INT) | BIT(SMALL_INT), BIT(BIT_INT) | BIT(SMALL_INT) },
    [T_LONG] = { "long", BIT(BIT_INT) | BIT(SMALL_INT) | BIT(LARGE_INT), BIT(LARGE_INT) },
    [T_DECIMAL] = { "decimal", BIT(BIT_INT) | BIT(SMALL_INT) | BIT(LARGE_INT) | BIT(REAL),
                    BIT(REAL) },
    [T_TIME] = { "DateTime", BIT(TIME), BIT(TIME) },
    [T_STRING] = { "string", BIT(TIME) | BIT(TEXT), BIT(TEXT) },
    [T_LIST] = { "string list", BIT(TEXTS), BIT(TEXTS) },
    [T_OBJECT] = { "jsonObject", BIT(TEXTS) | BIT(STRUCTURE), BIT(STRUCTURE) },
};

struct sighting {
    unsigned sample;
    char *value; /* its text, cut */
};

struct property {
    char *name;
    unsigned seen[TRAITS], total;
    unsigned samples, newest; /* in how many samples it has a value, and the last of them */
    struct sighting sightings[TRAITS][DRAFT_CONFLICTS]; /* the first ones of each trait */
    double least, most;
    size_t longest;
    struct property *next;
};

struct service {
    char *id;
    unsigned seen; /* in how many samples */
    unsigned newest;
    size_t n;
    struct property *properties, **end;
    struct service *next;
};

struct draft {
    char *fallback;
    unsigned samples;
    size_t n;
    struct service *services, **end;
    json_t *left_out;
};

/* ---- values */

static enum trait trait_of(const json_t *v)
{
    int64_t ms;
    switch (json_typeof(v)) {
    case JSON_INTEGER:
        if (json_integer_value(v) == 0 || json_integer_value(v) == 1)
            return BIT_INT;
        return json_integer_value(v) >= INT32_MIN && json_integer_value(v) <= INT32_MAX ? SMALL_INT
                                                                                        : LARGE_INT;
    case JSON_REAL:
        return REAL;
    case JSON_TRUE:
    case JSON_FALSE:
        return BOOL;
    case JSON_STRING:
        return cw_time_parse_any(&ms, json_string_value(v), json_string_length(v)) == 0 ? TIME
                                                                                        : TEXT;
    case JSON_ARRAY:
        for (size_t i = 0; i < json_array_size(v); i++)
            if (!json_is_string(json_array_get(v, i)))
                return STRUCTURE;
        return TEXTS;
    default:
        return STRUCTURE;
    }
}

static char *shown(const json_t *v)
{
    char *text = json_dumps(v, JSON_COMPACT | JSON_ENCODE_ANY);
    size_t n = text ? strlen(text) : 0;
    if (n > VALUE_SHOWN) {
        n = VALUE_SHOWN;
        while (n && ((unsigned char)text[n] & 0xc0) == 0x80) /* not inside a character */
            n--;
        text[n] = '\0';
    }
    return text;
}

static size_t characters(const char *s)
{
    size_t n = 0;
    for (; *s; s++)
        n += ((unsigned char)*s & 0xc0) != 0x80;
    return n;
}

static void note(struct property *p, const json_t *v, unsigned sample)
{
    if (json_is_null(v)) /* takes the value away, and says nothing of its type */
        return;
    enum trait t = trait_of(v);
    unsigned n = p->seen[t]++;
    if (n < DRAFT_CONFLICTS)
        p->sightings[t][n] = (struct sighting){ sample, shown(v) };
    if (json_is_number(v)) {
        double x = json_number_value(v);
        p->least = p->total && p->least < x ? p->least : x;
        p->most = p->total && p->most > x ? p->most : x;
    }
    if (json_is_string(v) && characters(json_string_value(v)) > p->longest)
        p->longest = characters(json_string_value(v));
    p->total++;
    p->samples += p->newest != sample;
    p->newest = sample;
}

/* ---- names */

/* As the contract has them for property_name and service_id. */
static bool name_fits(const char *name, const char *signs)
{
    size_t n = 0;
    for (const unsigned char *s = (const unsigned char *)name; *s; n++) {
        if (*s < 0x80) {
            bool plain = (*s | 32) >= 'a' && (*s | 32) <= 'z';
            if (!plain && !(*s >= '0' && *s <= '9') && !strchr(signs, *s))
                return false;
            s++;
            continue;
        }
        unsigned point =
            *s < 0xe0 || *s >= 0xf0 ? 0 : (*s & 15U) << 12 | (s[1] & 63U) << 6 | (s[2] & 63U);
        if (point < 0x4e00 || point > 0x9fff)
            return false;
        s += 3;
    }
    return n > 0 && n <= 64;
}

static void leave_out(struct draft *d, const char *service, const char *name, const char *reason)
{
    if (json_array_size(d->left_out) == DRAFT_LEFT_OUT)
        return;
    json_t *o = json_pack("{s:i, s:s}", "sample", (int)d->samples, "reason", reason);
    if (service)
        json_object_set_new(o, "service_id", json_string(service));
    if (name)
        json_object_set_new(o, "name", json_string(name));
    json_array_append_new(d->left_out, o);
}

static struct service *service_of(struct draft *d, const char *id)
{
    struct service *s = d->services;
    while (s && strcmp(s->id, id) != 0)
        s = s->next;
    if (s)
        return s;
    if (!name_fits(id, "_?'#().,&%@!$-"))
        leave_out(d, id, NULL, "this cannot be the service_id of a model");
    else if (d->n == DRAFT_SERVICES_MAX)
        leave_out(d, id, NULL, "there are 50 services already");
    else {
        s = cw_calloc(1, sizeof *s);
        s->id = cw_strdup(id);
        s->end = &s->properties;
        *d->end = s;
        d->end = &s->next;
        d->n++;
    }
    return s;
}

static struct property *property_of(struct draft *d, struct service *s, const char *name)
{
    struct property *p = s->properties;
    while (p && strcmp(p->name, name) != 0)
        p = p->next;
    if (p)
        return p;
    if (!name_fits(name, "_?'#(),&%@!-"))
        leave_out(d, s->id, name, "this cannot be the name of a property");
    else if (s->n == DRAFT_PROPERTIES)
        leave_out(d, s->id, name, "the service has 500 properties already");
    else {
        p = cw_calloc(1, sizeof *p);
        p->name = cw_strdup(name);
        *s->end = p;
        s->end = &p->next;
        s->n++;
    }
    return p;
}

/* ---- samples */

static void add_properties(struct draft *d, const char *service_id, const json_t *properties)
{
    const char *name;
    json_t *value;
    struct service *s = service_of(d, service_id);
    if (!s)
        return;
    s->seen += s->newest != d->samples;
    s->newest = d->samples;
    json_object_foreach((json_t *)properties, name, value)
    {
        struct property *p = property_of(d, s, name);
        if (p)
            note(p, value, d->samples);
    }
}

static void add_services(struct draft *d, const json_t *services)
{
    size_t i;
    const json_t *service;
    json_array_foreach(services, i, service)
    {
        const json_t *properties = json_object_get(service, "properties");
        const char *id = json_string_value(json_object_get(service, "service_id"));
        if (!id || !json_is_object(properties))
            leave_out(d, id, NULL,
                      "a service without service_id, or whose properties are no object");
        else
            add_properties(d, id, properties);
    }
}

bool draft_add(struct draft *d, const json_t *sample)
{
    const json_t *devices = json_object_get(sample, "devices"), *device;
    size_t i;
    d->samples++;
    if (!json_is_object(sample)) {
        leave_out(d, NULL, NULL, "the sample is no object");
        return false;
    }
    if (json_is_array(json_object_get(sample, "services")))
        add_services(d, json_object_get(sample, "services"));
    else if (json_is_array(devices) && json_array_size(devices))
        json_array_foreach(devices, i, device) add_services(d, json_object_get(device, "services"));
    else
        add_properties(d, d->fallback, sample);
    return true;
}

/* ---- the model */

static unsigned taken(const struct property *p, enum type t)
{
    unsigned n = 0;
    for (unsigned i = 0; i < TRAITS; i++)
        n += types[t].takes & BIT(i) ? p->seen[i] : 0;
    return n;
}

/* The narrowest of those that take most. A boolean needs a true or false among its numbers. */
static enum type type_of(const struct property *p)
{
    enum type best = TYPES;
    for (unsigned t = 0; t < TYPES; t++) {
        if (t == T_BOOLEAN && !p->seen[BOOL])
            continue;
        if (best == TYPES || taken(p, (enum type)t) > taken(p, best))
            best = (enum type)t;
    }
    return best;
}

static const struct sighting *decider(const struct property *p, enum type t)
{
    const struct sighting *first = NULL;
    for (unsigned i = 0; i < TRAITS; i++)
        if (types[t].decides & BIT(i) && p->seen[i] &&
            (!first || p->sightings[i][0].sample < first->sample))
            first = &p->sightings[i][0];
    return first;
}

/* Room to grow: the next power of two of twice the longest. */
static size_t length_for(size_t longest)
{
    size_t n = 16;
    while (n < 2 * longest)
        n *= 2;
    return n;
}

static json_t *property_json(const struct property *p, enum type t, bool required)
{
    json_t *o = json_pack("{s:s, s:s, s:b, s:s}", "property_name", p->name, "data_type",
                          types[t].name, "required", required, "method", "RE");
    if (t == T_STRING || t == T_TIME)
        json_object_set_new(o, "max_length", json_integer((json_int_t)length_for(p->longest)));
    return o;
}

static json_t *sighting_json(const struct sighting *s)
{
    return json_pack("{s:i, s:s}", "sample", (int)s->sample, "value", s->value);
}

static json_t *conflicts_json(const struct property *p, enum type t)
{
    json_t *list = json_array();
    for (unsigned i = 0; i < TRAITS; i++)
        for (unsigned k = 0; !(types[t].takes & BIT(i)) && k < p->seen[i] && k < DRAFT_CONFLICTS;
             k++)
            if (json_array_size(list) < DRAFT_CONFLICTS)
                json_array_append_new(list, sighting_json(&p->sightings[i][k]));
    return list;
}

static json_t *evidence_json(const struct service *s, const struct property *p, enum type t)
{
    json_t *o = json_pack("{s:s, s:s, s:s, s:i, s:o}", "service_id", s->id, "property_name",
                          p->name, "data_type", types[t].name, "seen", (int)p->total, "decided_by",
                          sighting_json(decider(p, t)));
    if (types[t].takes & BIT(SMALL_INT))
        json_object_update_new(o, json_pack("{s:f, s:f}", "least", p->least, "most", p->most));
    if (t == T_STRING)
        json_object_set_new(o, "longest", json_integer((json_int_t)p->longest));
    if (taken(p, t) < p->total) {
        json_object_set_new(o, "conflicting", json_integer(p->total - taken(p, t)));
        json_object_set_new(o, "conflicts", conflicts_json(p, t));
    }
    return o;
}

static json_t *service_json(const struct service *s, json_t *evidence)
{
    json_t *list = json_array();
    for (const struct property *p = s->properties; p; p = p->next) {
        if (!p->total) /* null only: there is no type to say */
            continue;
        enum type t = type_of(p);
        json_array_append_new(list, property_json(p, t, p->samples == s->seen));
        json_array_append_new(evidence, evidence_json(s, p, t));
    }
    return json_pack("{s:s, s:s, s:o, s:[], s:[], s:s}", "service_id", s->id, "service_type", s->id,
                     "properties", list, "commands", "events", "option", "Optional");
}

json_t *draft_model(const struct draft *d)
{
    json_t *services = json_array(), *evidence = json_array();
    for (const struct service *s = d->services; s; s = s->next)
        json_array_append_new(services, service_json(s, evidence));
    return json_pack("{s:o, s:o, s:O, s:i}", "service_capabilities", services, "evidence", evidence,
                     "left_out", d->left_out, "samples", (int)d->samples);
}

/* ---- life */

struct draft *draft_new(const char *service_id)
{
    struct draft *d = cw_calloc(1, sizeof *d);
    d->fallback = cw_strdup(service_id);
    d->end = &d->services;
    d->left_out = json_array();
    return d;
}

static void free_property(struct property *p)
{
    for (unsigned i = 0; i < TRAITS; i++)
        for (unsigned k = 0; k < DRAFT_CONFLICTS; k++)
            free(p->sightings[i][k].value);
    free(p->name);
    free(p);
}

void draft_free(struct draft **at)
{
    struct draft *d = *at;
    if (!d)
        return;
    *at = NULL;
    for (struct service *s = d->services, *next; s; s = next) {
        next = s->next;
        for (struct property *p = s->properties, *other; p; p = other) {
            other = p->next;
            free_property(p);
        }
        free(s->id);
        free(s);
    }
    json_decref(d->left_out);
    free(d->fallback);
    free(d);
}
