#include "libcommon/json.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void place(struct cw_json_error *err, const char *text, size_t len, size_t offset)
{
    err->offset = offset < len ? offset : len;
    err->line = err->column = 1;
    for (size_t i = 0; i < err->offset; i++) {
        err->column++;
        if (text[i] == '\n')
            err->line++, err->column = 1;
    }
}

/* Position after the string that begins at text[i], len if it does not end. */
static size_t skip_string(const char *text, size_t len, size_t i)
{
    for (i++; i < len && text[i] != '"'; i++)
        if (text[i] == '\\')
            i++;
    return i + 1;
}

/* True if the text opens more than CW_JSON_DEPTH levels; *at is where. Done before the parser,
 * which would recurse that deep. */
static bool too_deep(const char *text, size_t len, size_t *at)
{
    unsigned depth = 0;
    for (size_t i = 0; i < len; i++) {
        if (text[i] == '"') {
            i = skip_string(text, len, i) - 1;
        } else if (text[i] == '{' || text[i] == '[') {
            if (++depth > CW_JSON_DEPTH) {
                *at = i;
                return true;
            }
        } else if ((text[i] == '}' || text[i] == ']') && depth > 0) {
            depth--;
        }
    }
    return false;
}

static void describe(struct cw_json_error *err, const char *what)
{
    size_t n = (size_t)snprintf(err->text, sizeof err->text, "%s, at byte %zu (line %d, column %d)",
                                what, err->offset, err->line, err->column);
    if (n >= sizeof err->text)
        n = sizeof err->text - 1;
    if (cw_utf8_valid(err->text, n)) /* the parser quotes what it stumbled over */
        return;
    for (char *p = err->text; *p; p++)
        if ((unsigned char)*p >= 0x80)
            *p = '?';
}

json_t *cw_json_parse(const void *data, size_t len, struct cw_json_error *err)
{
    json_error_t why;
    size_t at = 0;
    *err = (struct cw_json_error){ 0 };
    if (too_deep(data, len, &at)) {
        char what[64];
        place(err, data, len, at);
        snprintf(what, sizeof what, "more than %d levels of nesting", CW_JSON_DEPTH);
        describe(err, what);
        return NULL;
    }
    /* jansson overlooks one behind a number, and PostgreSQL takes none in a text */
    const char *nul = len ? memchr(data, '\0', len) : NULL;
    if (nul) {
        place(err, data, len, (size_t)(nul - (const char *)data));
        describe(err, "a NUL byte");
        return NULL;
    }
    json_t *v = json_loadb(data, len, JSON_DECODE_ANY, &why);
    if (v)
        return v;
    place(err, data, len, why.position > 0 ? (size_t)why.position : 0);
    describe(err, len ? why.text : "the payload is empty");
    return NULL;
}

static void write_real(struct cw_buf *out, double d)
{
    char text[40];
    for (int digits = 15; digits <= 17; digits++) {
        snprintf(text, sizeof text, "%.*g", digits, d);
        if (strtod(text, NULL) == d)
            break;
    }
    if (!strpbrk(text, ".e"))
        strcat(text, ".0"); /* stays a real for whoever reads it */
    cw_buf_str(out, text);
}

static void write_object(struct cw_buf *out, const json_t *object)
{
    char sep = '{';
    for (void *it = json_object_iter((json_t *)object); it;
         it = json_object_iter_next((json_t *)object, it)) {
        const char *key = json_object_iter_key(it);
        cw_buf_add(out, &sep, 1);
        cw_buf_json_string(out, key, strlen(key));
        cw_buf_str(out, ":");
        cw_json_write(out, json_object_iter_value(it));
        sep = ',';
    }
    cw_buf_str(out, sep == '{' ? "{}" : "}");
}

static void write_array(struct cw_buf *out, const json_t *array)
{
    cw_buf_str(out, "[");
    for (size_t i = 0; i < json_array_size(array); i++) {
        if (i)
            cw_buf_str(out, ",");
        cw_json_write(out, json_array_get(array, i));
    }
    cw_buf_str(out, "]");
}

void cw_json_write(struct cw_buf *out, const json_t *v)
{
    switch (json_typeof(v)) {
    case JSON_OBJECT:
        write_object(out, v);
        break;
    case JSON_ARRAY:
        write_array(out, v);
        break;
    case JSON_STRING:
        cw_buf_json_string(out, json_string_value(v), json_string_length(v));
        break;
    case JSON_INTEGER:
        cw_buf_printf(out, "%" JSON_INTEGER_FORMAT, json_integer_value(v));
        break;
    case JSON_REAL:
        write_real(out, json_real_value(v));
        break;
    case JSON_TRUE:
        cw_buf_str(out, "true");
        break;
    case JSON_FALSE:
        cw_buf_str(out, "false");
        break;
    case JSON_NULL:
        cw_buf_str(out, "null");
        break;
    }
}

void cw_json_compact(struct cw_buf *out, const char *text, size_t len)
{
    size_t from = 0, i = 0;
    while (i < len) {
        if (text[i] == '"') {
            i = skip_string(text, len, i);
        } else if (strchr(" \t\r\n", text[i])) {
            cw_buf_add(out, text + from, i - from);
            from = ++i;
        } else {
            i++;
        }
    }
    cw_buf_add(out, text + from, (i < len ? i : len) - from);
}

const char *cw_json_text(const json_t *object, const char *key)
{
    const char *s = json_string_value(json_object_get(object, key));
    return s && *s ? s : NULL;
}

json_t *cw_json_find(const json_t *array, const char *key, const char *value)
{
    size_t i;
    json_t *o;
    json_array_foreach(array, i, o)
    {
        const char *text = cw_json_text(o, key);
        if (text && strcmp(text, value) == 0)
            return o;
    }
    return NULL;
}
