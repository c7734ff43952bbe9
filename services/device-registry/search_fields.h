/* search_fields.h - the fields of the search language, for its reader and its compiler. */
#pragma once

#include "services/device-registry/search.h"

enum search_kind {
    FIELD_PLAIN,
    FIELD_TIME,
    FIELD_MARKER,
    FIELD_TAG_KEY,
    FIELD_TAG_VALUE,
    FIELD_GROUP,
    FIELD_GATEWAY,
    FIELD_PRODUCT,
};

struct search_field {
    const char *name;
    enum search_kind kind;
    unsigned ops;        /* bits of enum search_op */
    const char *sql;     /* of d, compared with an array; FIELD_GATEWAY: %d is the parameter */
    const char *counted; /* the same of registry.device_count c; NULL: not known there */
};
#define SEARCH_FIELDS_MAX 20
/* Ends with a row without a name. */
extern const struct search_field search_fields[];
/* NULL: there is none. */
const struct search_field *search_field(const char *name, size_t len);
