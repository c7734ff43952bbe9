/* route_table.h - what proto/gen_routes.py makes of openapi.json: routes, parameters, bodies.
 *
 * The tables are constant and live as long as the process. routes.h (generated) declares them. */
#pragma once

#include "libcommon/error.h"

/* Types a value may have, as bits. */
enum {
    CW_T_STRING = 1,
    CW_T_INT = 2,
    CW_T_NUMBER = 4, /* also takes an integer */
    CW_T_BOOL = 8,
    CW_T_OBJECT = 16,
    CW_T_ARRAY = 32,
    CW_T_NULL = 64, /* null has a meaning here; elsewhere it counts as absent */
    CW_T_ANY = 127,
};

/* Characters of a string: a bitmap below U+0080, ranges above. */
struct cw_char_range {
    uint32_t from, to;
};
struct cw_char_class {
    const char *name;
    uint32_t ascii[4];
    const struct cw_char_range *ranges;
    size_t n_ranges;
};

struct cw_field;
struct cw_schema {
    unsigned types;
    bool basic_time;            /* yyyyMMdd'T'HHmmss'Z' */
    int64_t min, max, multiple; /* of an integer; multiple 0: any */
    uint32_t min_len, max_len;  /* code points of a string, items of an array */
    uint32_t max_bytes;         /* of the compact JSON text; 0: any */
    const struct cw_char_class *chars;
    const char *const *enums; /* ends with NULL; NULL: any */
    const struct cw_schema *items;
    const struct cw_field *fields; /* unknown fields are ignored */
    size_t n_fields;
};
struct cw_field {
    const char *name;
    bool required;
    const struct cw_schema *schema;
};

struct cw_param {
    const char *name;
    bool required;
    enum cw_error error; /* answered when the value is refused */
    const char *def;     /* text filled in when absent, or NULL */
    const struct cw_schema *schema;
};

struct cw_route {
    const char *method, *path; /* segments in braces are path parameters */
    const char *service, *operation;
    const char *permission; /* NULL: open to everybody; iam:self:…: to whoever is known */
    const char *space;      /* whose resource space it is about (libcommon/api_space.h), or NULL */
    bool self;              /* also without the permission, about oneself */
    int64_t deadline_ms;
    bool iam_errors; /* errors in the form of IAM */
    bool body_required;
    const struct cw_schema *body; /* NULL: a body is ignored, unless media is set */
    const char *media;            /* of a body that is bytes, at most max_bytes */
    uint32_t max_bytes;
    const struct cw_param *path_params, *query_params;
    size_t n_path_params, n_query_params;
};
