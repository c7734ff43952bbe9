/* json.h - JSON from the network: parsed under limits, errors that name their place, exact output.
 */
#pragma once

#include <jansson.h>

#include "libcommon/util.h"

#define CW_JSON_DEPTH 64

struct cw_json_error {
    size_t offset; /* byte, from 0 */
    int line, column;
    char text[256]; /* for a person, valid UTF-8: what is wrong and where */
};

/* Parses one value of any type. Duplicate keys: the last wins. Refused with NULL and *err:
 * malformed UTF-8 or JSON, a NUL byte, an escaped NUL in a string, a number beyond 64-bit integers
 * or doubles, more than CW_JSON_DEPTH levels. The caller owns the result (json_decref). */
json_t *cw_json_parse(const void *data, size_t len, struct cw_json_error *err);

/* Appends v as compact JSON; keys keep their order, a real gets the shortest text that reads back
 * as the same double. */
void cw_json_write(struct cw_buf *out, const json_t *v);

/* Appends text that cw_json_parse() has accepted without the white space between its tokens:
 * numbers and escapes stay as they were written. */
void cw_json_compact(struct cw_buf *out, const char *text, size_t len);

/* Value of a string member; NULL when it is absent, JSON null, empty or of another type. */
const char *cw_json_text(const json_t *object, const char *key);

/* The first object of an array whose member key is this text, borrowed; NULL: there is none. */
json_t *cw_json_find(const json_t *array, const char *key, const char *value);
