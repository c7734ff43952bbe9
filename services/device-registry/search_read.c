/* The search language: from text to struct search. */
#include <ctype.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

#include "libcommon/alike.h"
#include "libcommon/clock.h"
#include "services/device-registry/search_fields.h"

const char *const search_columns[] = {
    "app_id",    "app_name",           "device_id",  "node_id",      "gateway_id", "device_name",
    "node_type", "fw_version",         "sw_version", "product_id",   "groups",     "status",
    "tags",      "device_sdk_version", "modules",    "product_name", "marker",     NULL
};

struct reader {
    struct search *s;
    const char *begin, *p;
    size_t kept; /* of s->text */
    char *fault;
};

static bool fail(struct reader *r, const char *expected)
{
    size_t len = strcspn(r->p, " \t\r\n");
    snprintf(r->fault, SEARCH_FAULT_LEN, "at character %zu %s%.*s%s: expected %s",
             (size_t)(r->p - r->begin) + 1, *r->p ? "\"" : "", (int)(len < 40 ? len : 40), r->p,
             *r->p ? "\"" : "the text ends", expected);
    return false;
}

static void skip(struct reader *r) { r->p += strspn(r->p, " \t\r\n"); }

static size_t word_len(const struct reader *r)
{
    size_t n = 0;
    while (isalnum((unsigned char)r->p[n]) || r->p[n] == '_')
        n++;
    return n;
}

/* Keywords in any case. */
static bool take_word(struct reader *r, const char *word)
{
    skip(r);
    size_t n = word_len(r);
    if (n != strlen(word) || strncasecmp(r->p, word, n) != 0)
        return false;
    r->p += n;
    skip(r);
    return true;
}

static bool take_sign(struct reader *r, const char *sign)
{
    skip(r);
    if (strncmp(r->p, sign, strlen(sign)) != 0)
        return false;
    r->p += strlen(sign);
    skip(r);
    return true;
}

static bool take_number(struct reader *r, unsigned max, const char *what, unsigned *out)
{
    char expected[80];
    unsigned long v = 0;
    size_t n = 0;
    skip(r);
    for (; isdigit((unsigned char)r->p[n]) && n < 9; n++)
        v = v * 10 + (unsigned)(r->p[n] - '0');
    if (n == 0 || v > max) {
        snprintf(expected, sizeof expected, "%s, a number up to %u", what, max);
        return fail(r, expected);
    }
    *out = (unsigned)v;
    r->p += n;
    skip(r);
    return true;
}

/* ---- values */

/* 'text'; two quotes inside stand for one. */
static bool take_text(struct reader *r, const char **out)
{
    skip(r);
    if (*r->p != '\'')
        return fail(r, "a value in single quotes");
    const char *start = r->p++;
    char *to = r->s->text + r->kept;
    *out = to;
    for (; *r->p && (*r->p != '\'' || r->p[1] == '\''); r->p++) {
        r->p += *r->p == '\'';
        *to++ = *r->p;
    }
    if (!*r->p) {
        r->p = start;
        return fail(r, "a closing quote behind this value");
    }
    *to++ = '\0';
    r->kept = (size_t)(to - r->s->text);
    r->p++;
    if (**out)
        return true;
    r->p = start;
    return fail(r, "a value that is not empty");
}

/* Four characters and a final %, for prefixes; nothing else is a pattern. */
static bool fits_like(const char *value)
{
    size_t n = strlen(value), letters = 0;
    if (n == 0 || value[n - 1] != '%')
        return false;
    for (size_t i = 0; i < n - 1; i++) {
        unsigned char c = (unsigned char)value[i];
        if (c < 0x80 && !isalnum(c) && c != '_' && c != '-')
            return false;
        letters += (c & 0xc0) != 0x80; /* code points */
    }
    return letters >= 4;
}

static bool fits_hex(const char *value)
{
    return strlen(value) <= 24 && strspn(value, "0123456789abcdefABCDEF") == strlen(value);
}

static bool take_value(struct reader *r, struct search_condition *c)
{
    struct search *s = r->s;
    const char *value = "", *start;
    int64_t ms;
    skip(r);
    start = r->p;
    if (s->n_values == SEARCH_VALUES)
        return fail(r, "fewer values");
    if (!take_text(r, &value))
        return false;
    r->p = start;
    if (c->op == SEARCH_LIKE && !fits_like(value))
        return fail(r, "a prefix of four or more letters, digits, _ or -, and then one %");
    if (c->field->kind == FIELD_TIME && cw_time_parse_basic(&ms, value) < 0)
        return fail(r, "a time such as '20261126T080000Z'");
    if (c->field->kind == FIELD_MARKER && !fits_hex(value))
        return fail(r, "a marker: hexadecimal digits, 24 at most");
    for (r->p++; *r->p != '\'' || r->p[1] == '\''; r->p++)
        r->p += *r->p == '\'';
    r->p++;
    s->values[s->n_values++] = value;
    c->n++;
    return true;
}

static bool take_list(struct reader *r, struct search_condition *c)
{
    if (!take_sign(r, "("))
        return fail(r, "( and values");
    do {
        if (!take_value(r, c))
            return false;
    } while (take_sign(r, ","));
    return take_sign(r, ")") || fail(r, ", or )");
}

/* ---- conditions */

/* The field that was meant comes first. */
static bool no_field(struct reader *r)
{
    const char *names[SEARCH_FIELDS_MAX];
    struct cw_buf all = { 0 };
    size_t n = 0;
    for (; n < SEARCH_FIELDS_MAX && search_fields[n].name; n++)
        names[n] = search_fields[n].name;
    const char *meant = cw_alike(r->p, word_len(r), names, n);
    cw_buf_printf(&all, "a field: %s", meant ? meant : "");
    for (size_t i = 0; i < n; i++)
        if (names[i] != meant)
            cw_buf_printf(&all, "%s%s", i || meant ? ", " : "", names[i]);
    cw_buf_add(&all, "", 1);
    fail(r, all.data);
    cw_buf_free(&all);
    return false;
}

static bool take_field(struct reader *r, struct search_condition *c)
{
    skip(r);
    size_t n = word_len(r);
    c->field = search_field(r->p, n);
    r->p += c->field ? n : 0;
    return c->field || no_field(r);
}

static bool take_op(struct reader *r, struct search_condition *c)
{
    static const struct {
        const char *sign, *word, *second;
        enum search_op op;
    } ops[] = { { .sign = "!=", .op = SEARCH_NE },
                { .sign = "=", .op = SEARCH_EQ },
                { .sign = "<", .op = SEARCH_LT },
                { .sign = ">", .op = SEARCH_GT },
                { .word = "like", .op = SEARCH_LIKE },
                { .word = "in", .op = SEARCH_IN },
                { .word = "not", .second = "in", .op = SEARCH_NOT_IN } };
    static const char *const said[] = { "=", "!=", "<", ">", "like", "in", "not in" };
    char expected[80] = "";
    size_t at = 0;
    skip(r);
    const char *start = r->p;
    for (size_t i = 0; i < CW_ARRAY_LEN(ops); i++) {
        if (ops[i].sign ? !take_sign(r, ops[i].sign) : !take_word(r, ops[i].word))
            continue;
        if (ops[i].second && !take_word(r, ops[i].second))
            break;
        c->op = ops[i].op;
        if (c->field->ops & 1U << c->op)
            return true;
        break;
    }
    r->p = start;
    for (size_t i = 0; i < CW_ARRAY_LEN(said); i++)
        if (c->field->ops & 1U << i)
            at += (size_t)snprintf(expected + at, sizeof expected - at, "%s%s", at ? ", " : "",
                                   said[i]);
    return fail(r, expected);
}

static bool take_condition(struct reader *r, bool starts)
{
    struct search *s = r->s;
    if (s->n == SEARCH_CONDITIONS)
        return fail(r, "five conditions at most");
    struct search_condition *c = &s->conditions[s->n];
    *c = (struct search_condition){ .starts = starts, .first = s->n_values };
    if (take_sign(r, "("))
        return r->p--, fail(r, "a condition without parentheses");
    if (!take_field(r, c) || !take_op(r, c))
        return false;
    s->n++;
    return c->op == SEARCH_IN || c->op == SEARCH_NOT_IN ? take_list(r, c) : take_value(r, c);
}

static bool take_conditions(struct reader *r)
{
    bool starts = true;
    for (;;) {
        if (!take_condition(r, starts))
            return false;
        if (take_word(r, "and"))
            starts = false;
        else if (take_word(r, "or"))
            starts = true;
        else
            return true;
    }
}

/* ---- the statement around them */

static bool take_count(struct reader *r)
{
    if (!take_word(r, "count"))
        return true;
    if (!take_sign(r, "(") || !(take_sign(r, "*") || take_sign(r, "1")) || !take_sign(r, ")"))
        return fail(r, "count(*) or count(1)");
    r->s->counts = true;
    return true;
}

static bool take_column(struct reader *r)
{
    for (size_t i = 0; search_columns[i]; i++)
        if (take_word(r, search_columns[i])) {
            r->s->shown |= 1U << i;
            return true;
        }
    char expected[80];
    size_t n = CW_ARRAY_LEN(search_columns) - 1;
    const char *meant = cw_alike(r->p, word_len(r), search_columns, n);
    snprintf(expected, sizeof expected, "*, count(*) or names of fields%s%s",
             meant ? ", such as " : "", meant ? meant : "");
    return fail(r, expected);
}

static bool take_columns(struct reader *r)
{
    if (take_sign(r, "*"))
        return true;
    if (!take_count(r) || r->s->counts)
        return r->s->counts;
    do {
        if (!take_column(r))
            return false;
    } while (take_sign(r, ","));
    return true;
}

static bool take_order(struct reader *r)
{
    if (!take_word(r, "order"))
        return true;
    if (!take_word(r, "by") || !take_word(r, "marker"))
        return fail(r, "by marker, the only order there is");
    r->s->ordered = true;
    r->s->ascending = take_word(r, "asc") || !take_word(r, "desc");
    return true;
}

static bool take_limit(struct reader *r)
{
    struct search *s = r->s;
    if (!take_word(r, "limit"))
        return true;
    const char *start = r->p;
    unsigned first;
    if (!take_number(r, SEARCH_OFFSET_MAX, "rows, or an offset and rows", &first))
        return false;
    if (take_sign(r, ",")) {
        s->offset = first;
        return take_number(r, SEARCH_ROWS_MAX, "rows", &s->limit);
    }
    s->limit = first;
    if (first <= SEARCH_ROWS_MAX)
        return true;
    r->p = start;
    return fail(r, "50 rows at most");
}

static void begin(struct reader *r, struct search *s, const char *text, char *fault)
{
    memset(s, 0, sizeof *s);
    s->limit = 10;
    *r = (struct reader){ s, text, text, 0, fault };
    skip(r);
}

static bool is_short(struct reader *r)
{
    if (strlen(r->begin) <= SEARCH_TEXT_MAX)
        return true;
    snprintf(r->fault, SEARCH_FAULT_LEN, "it has %zu bytes; %d are allowed", strlen(r->begin),
             SEARCH_TEXT_MAX);
    return false;
}

bool search_read(struct search *s, const char *text, char fault[SEARCH_FAULT_LEN])
{
    struct reader r;
    begin(&r, s, text, fault);
    if (!is_short(&r))
        return false;
    if (!take_word(&r, "select"))
        return fail(&r, "select");
    if (!take_columns(&r))
        return false;
    if (!take_word(&r, "from") || !take_word(&r, "device"))
        return fail(&r, "from device");
    if (take_word(&r, "where") && !take_conditions(&r))
        return false;
    if (!take_order(&r) || !take_limit(&r))
        return false;
    take_sign(&r, ";");
    return !*r.p || fail(&r, s->n ? "and, or, order by, limit or the end"
                                  : "where, order by, limit or the end");
}

bool search_read_rule(struct search *s, const char *text, char fault[SEARCH_FAULT_LEN])
{
    struct reader r;
    begin(&r, s, text, fault);
    if (!is_short(&r) || !take_conditions(&r))
        return false;
    for (size_t i = 0; i < s->n; i++)
        if (s->conditions[i].field->kind == FIELD_GROUP) {
            snprintf(fault, SEARCH_FAULT_LEN, "a rule cannot depend on groups (group_id)");
            return false;
        }
    return !*r.p || fail(&r, "and, or, or the end");
}
