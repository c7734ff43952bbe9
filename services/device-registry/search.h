/* search.h - the search language for devices: docs/protocol/device-search.md.
 *
 *     select * from device where product_id = 'p' and status in ('ONLINE', 'OFFLINE') order by
 * marker limit 20, 10
 *
 * A statement is read into a struct search; search_sql() makes one parameterised query of it. The
 * part behind where is also the rule of a dynamic group. No I/O here. */
#pragma once

#include "libcommon/db.h"

#define SEARCH_TEXT_MAX   400
#define SEARCH_CONDITIONS 5
#define SEARCH_VALUES     128 /* more do not fit into the text */
#define SEARCH_ROWS_MAX   50
#define SEARCH_OFFSET_MAX 500
#define SEARCH_FAULT_LEN  320

enum search_op {
    SEARCH_EQ,
    SEARCH_NE,
    SEARCH_LT,
    SEARCH_GT,
    SEARCH_LIKE,
    SEARCH_IN,
    SEARCH_NOT_IN,
};

struct search_condition {
    const struct search_field *field;
    enum search_op op;
    bool starts;     /* behind an or: the conditions before it are another way to match */
    size_t first, n; /* of values */
    bool keyed;      /* search_by_keys() was here: the array has keys of products, not ids */
    size_t keys;
};

struct search {
    bool counts;    /* count(*) */
    uint32_t shown; /* bits of search_columns; 0: all */
    struct search_condition conditions[SEARCH_CONDITIONS];
    size_t n;
    char text[SEARCH_TEXT_MAX + 1]; /* the values lie here */
    const char *values[SEARCH_VALUES];
    size_t n_values;
    bool ordered, ascending;
    unsigned limit, offset;
};

/* What a row of the answer may have, in the order of the bits of shown; ends with NULL. */
extern const char *const search_columns[];

/* Reads a whole statement. False: fault says at which character what was expected. */
bool search_read(struct search *s, const char *text, char fault[SEARCH_FAULT_LEN]);
/* Reads what stands behind where. Conditions on groups are refused. */
bool search_read_rule(struct search *s, const char *text, char fault[SEARCH_FAULT_LEN]);

/* The query: $1 and $2 are the spaces that the caller may and may not see (api_space.h), then the
 * arrays of values, one per condition, that search_params() gives. Rows: device_key, record_id, as
 * many as are asked for; or count. The caller frees data. */
struct cw_buf search_sql(const struct search *s);
/* The same for a rule: device_key and record_id of the devices that match, the highest record ids
 * first. $1: of these keys only, NULL for all; $2: with a lower record id only; $3: of this space;
 * $4: as many at most; $5 is not used; from $6 on the arrays of values. */
struct cw_buf search_rule_sql(const struct search *s);
/* arrays: one per condition, zeroed; the caller frees them. */
void search_params(const struct search *s, struct cw_db_array *arrays);
/* A query over known keys of products is planned for as many devices as these have. ids: of all
 * products that the statement names; false: it names none. The caller frees ids. */
bool search_product_ids(const struct search *s, struct cw_db_array *ids);
/* Between search_params() and search_sql(): the arrays of products take keys instead, of which
 * search_product_key() tells each one that there is. */
void search_by_keys(struct search *s, struct cw_db_array *arrays);
void search_product_key(struct search *s, struct cw_db_array *arrays, const char *id, int64_t key);
