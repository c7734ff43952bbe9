#include "services/rest-gateway/route.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "proto/routes.h"

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c |= 0x20;
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

char *url_decode(const char *s, size_t n, bool plus)
{
    char *out = cw_malloc(n + 1), *to = out;
    for (size_t i = 0; i < n; i++) {
        if (s[i] != '%') {
            *to++ = s[i];
            if (plus && s[i] == '+')
                to[-1] = ' ';
            continue;
        }
        int hi = n - i > 2 ? hex_digit(s[i + 1]) : -1;
        int lo = n - i > 2 ? hex_digit(s[i + 2]) : -1;
        if (hi < 0 || lo < 0 || (hi == 0 && lo == 0)) {
            free(out);
            return NULL;
        }
        *to++ = (char)(hi << 4 | lo);
        i += 2;
    }
    *to = '\0';
    return out;
}

static void add_var(struct route_match *m, const char *name, size_t name_len, char *value)
{
    if (m->n_vars == ROUTE_VARS)
        abort(); /* a mistake in the contract */
    m->vars[m->n_vars++] = (struct route_var){ cw_strndup(name, name_len), value };
}

/* Compares segment by segment; a segment in braces takes any that is not empty. */
static bool fits(struct route_match *m, const char *template, const char *path)
{
    while (*template == '/' && *path == '/') {
        size_t t = strcspn(++template, "/"), p = strcspn(++path, "/");
        if (*template == '{') {
            char *value = p ? url_decode(path, p, false) : NULL;
            if (!value)
                return false;
            add_var(m, template + 1, t - 2, value);
        } else if (t != p || memcmp(template, path, t) != 0)
            return false;
        template += t;
        path += p;
    }
    return !*template && (!*path || strcmp(path, "/") == 0);
}

int route_find(struct route_match *out, const char *method, const char *path)
{
    char allow[sizeof out->allow] = "";
    for (size_t i = 0; i < cw_n_routes; i++) {
        *out = (struct route_match){ .route = &cw_routes[i] };
        if (fits(out, cw_routes[i].path, path)) {
            if (strcmp(cw_routes[i].method, method) == 0)
                return 0;
            size_t used = strlen(allow);
            snprintf(allow + used, sizeof allow - used, "%s%s", used ? ", " : "",
                     cw_routes[i].method);
        }
        route_match_free(out);
    }
    memcpy(out->allow, allow, sizeof allow);
    return *allow ? -EOPNOTSUPP : -ENOENT;
}

void route_match_free(struct route_match *m)
{
    for (size_t i = 0; i < m->n_vars; i++) {
        free(m->vars[i].name);
        free(m->vars[i].value);
    }
    *m = (struct route_match){ 0 };
}

const char *route_var(const struct route_match *m, const char *name)
{
    for (size_t i = 0; i < m->n_vars; i++)
        if (strcmp(m->vars[i].name, name) == 0)
            return m->vars[i].value;
    return NULL;
}
