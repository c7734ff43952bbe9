/* config.h - settings as a table: parsing, --help and --check-config come from the same rows. */
#pragma once

#include <stddef.h>
#include <stdint.h>

enum cw_option_type {
    CW_OPT_INT = 1, /* int64_t */
    CW_OPT_MS,      /* int64_t milliseconds; text such as 500ms, 20s, 5m, 1h */
    CW_OPT_BYTES,   /* int64_t; text such as 64k, 1M, 2G */
    CW_OPT_BOOL,    /* bool; 0/1, true/false, on/off */
    CW_OPT_STRING,  /* char *, owned by the target; min/max are lengths */
    CW_OPT_HEX32,   /* uint8_t[32] from 64 hex digits; a secret: never shown */
    CW_OPT_SECRET,  /* char *, never shown */
};

/* One row: environment CAUSEWAY_<name>, or <name>= in the file of --config. */
struct cw_option {
    const char *name;
    enum cw_option_type type;
    const char *def; /* text as a user would write it; NULL: must be given */
    int64_t min, max;
    size_t offset; /* into the target struct */
    const char *help;
};

/* Fills target from file, then environment. -EINVAL after writing to err (size bytes) one line such
 * as `CAUSEWAY_DRAIN="20x": not a time (100..60000)`. The table ends with a zero row. */
int cw_config_load(const struct cw_option *table, void *target, const char *file, char *err,
                   size_t err_size);
/* Frees the texts that the table put into target and sets them to NULL. */
void cw_config_free(const struct cw_option *table, void *target);
void cw_config_help(const struct cw_option *table); /* one line per row to stdout */
