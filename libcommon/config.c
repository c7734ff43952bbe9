#include "libcommon/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/util.h"

struct unit {
    const char *suffix;
    int64_t factor;
};
static const struct unit no_units[] = { { "", 1 }, { NULL, 0 } };
static const struct unit time_units[] = { { "ms", 1 },      { "s", 1000 },     { "m", 60000 },
                                          { "h", 3600000 }, { "d", 86400000 }, { NULL, 0 } };
static const struct unit byte_units[] = { { "", 1 },        { "k", 1 << 10 }, { "K", 1 << 10 },
                                          { "M", 1 << 20 }, { "G", 1 << 30 }, { NULL, 0 } };

static const struct {
    const char *what; /* "not a …" */
    const struct unit *units;
} kinds[] = {
    [CW_OPT_INT] = { "whole number", no_units },
    [CW_OPT_MS] = { "time", time_units },
    [CW_OPT_BYTES] = { "size", byte_units },
    [CW_OPT_BOOL] = { "switch (0 or 1)", NULL },
    [CW_OPT_STRING] = { "text of the allowed length", NULL },
    [CW_OPT_HEX32] = { "key of 64 hex digits", NULL },
    [CW_OPT_SECRET] = { "text of the allowed length", NULL },
};

static bool is_secret(const struct cw_option *o)
{
    return o->type == CW_OPT_SECRET || o->type == CW_OPT_HEX32;
}

static int read_number(const struct cw_option *o, const char *text, int64_t *out)
{
    char *end;
    errno = 0;
    long long n = strtoll(text, &end, 10);
    if (end == text || errno || isspace((unsigned char)*text))
        return -EINVAL;
    for (const struct unit *u = kinds[o->type].units; u->suffix; u++)
        if (strcmp(u->suffix, end) == 0) {
            if (__builtin_mul_overflow(n, u->factor, out))
                return -EINVAL;
            return *out < o->min || *out > o->max ? -EINVAL : 0;
        }
    return -EINVAL;
}

static int read_bool(const char *text, bool *out)
{
    static const char *const words[] = { "0", "1", "false", "true", "off", "on" };
    for (size_t i = 0; i < CW_ARRAY_LEN(words); i++)
        if (strcmp(text, words[i]) == 0) {
            *out = i % 2;
            return 0;
        }
    return -EINVAL;
}

static int read_key(const char *text, uint8_t *out)
{
    if (strlen(text) != 64 || strspn(text, "0123456789abcdefABCDEF") != 64)
        return -EINVAL;
    for (size_t i = 0; i < 32; i++) {
        const char pair[3] = { text[2 * i], text[2 * i + 1], '\0' };
        out[i] = (uint8_t)strtoul(pair, NULL, 16);
    }
    return 0;
}

static int read_text(const struct cw_option *o, const char *text, char **out)
{
    int64_t len = (int64_t)strlen(text);
    if (len < o->min || len > o->max)
        return -EINVAL;
    free(*out);
    *out = cw_strdup(text);
    return 0;
}

static int set(const struct cw_option *o, void *target, const char *text)
{
    void *at = (char *)target + o->offset;
    switch (o->type) {
    case CW_OPT_INT:
    case CW_OPT_MS:
    case CW_OPT_BYTES:
        return read_number(o, text, at);
    case CW_OPT_BOOL:
        return read_bool(text, at);
    case CW_OPT_HEX32:
        return read_key(text, at);
    case CW_OPT_STRING:
    case CW_OPT_SECRET:
        return read_text(o, text, at);
    }
    return -EINVAL;
}

static int complain(const struct cw_option *o, const char *text, char *err, size_t err_size)
{
    if (!text)
        snprintf(err, err_size, "CAUSEWAY_%s is not set: %s", o->name, o->help);
    else if (is_secret(o))
        snprintf(err, err_size, "CAUSEWAY_%s: not a %s", o->name, kinds[o->type].what);
    else
        snprintf(err, err_size, "CAUSEWAY_%s=\"%.64s\": not a %s (%lld..%lld)", o->name, text,
                 kinds[o->type].what, (long long)o->min, (long long)o->max);
    return -EINVAL;
}

/* The value of name in text of KEY=value lines, or NULL; the caller frees it. */
static char *from_file(const char *text, const char *name)
{
    size_t len = strlen(name);
    for (const char *line = text; line && *line;) {
        size_t n = strcspn(line, "\n");
        const char *key = strncmp(line, "CAUSEWAY_", 9) == 0 ? line + 9 : line;
        size_t skipped = (size_t)(key - line);
        if (n > skipped + len && strncmp(key, name, len) == 0 && key[len] == '=')
            return cw_strndup(key + len + 1, n - skipped - len - 1);
        line += n + (line[n] == '\n');
    }
    return NULL;
}

static int read_file(const char *path, struct cw_buf *out)
{
    char chunk[4096];
    size_t n;
    FILE *f = fopen(path, "re");
    if (!f)
        return -errno;
    while ((n = fread(chunk, 1, sizeof chunk, f)) > 0 && out->len < 1 << 20)
        cw_buf_add(out, chunk, n);
    int rc = ferror(f) ? -EIO : 0;
    fclose(f);
    return rc;
}

static int load_row(const struct cw_option *o, void *target, const char *file_text, char *err,
                    size_t err_size)
{
    char *variable = cw_sprintf("CAUSEWAY_%s", o->name);
    char *stated = from_file(file_text, o->name);
    const char *text = getenv(variable);
    if (!text)
        text = stated ? stated : o->def;
    int rc = text && set(o, target, text) == 0 ? 0 : complain(o, text, err, err_size);
    free(variable);
    free(stated);
    return rc;
}

int cw_config_load(const struct cw_option *table, void *target, const char *file, char *err,
                   size_t err_size)
{
    struct cw_buf text = { 0 };
    int rc = file ? read_file(file, &text) : 0;
    if (rc < 0)
        snprintf(err, err_size, "could not read %s: %s", file, strerror(-rc));
    for (const struct cw_option *o = table; rc == 0 && o->name; o++)
        rc = load_row(o, target, text.data, err, err_size);
    cw_buf_free(&text);
    return rc;
}

void cw_config_free(const struct cw_option *table, void *target)
{
    for (const struct cw_option *o = table; o->name; o++)
        if (o->type == CW_OPT_STRING || o->type == CW_OPT_SECRET) {
            char **at = (char **)((char *)target + o->offset);
            free(*at);
            *at = NULL;
        }
}

void cw_config_help(const struct cw_option *table)
{
    for (const struct cw_option *o = table; o->name; o++)
        printf("  CAUSEWAY_%-20s %s (%s)\n", o->name, o->help,
               !o->def        ? "must be set"
               : is_secret(o) ? "secret"
               : *o->def      ? o->def
                              : "empty");
}
