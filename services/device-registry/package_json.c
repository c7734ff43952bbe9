/* Where in a JSON text something lies. The text has been parsed already: this only walks it. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "services/device-registry/package.h"

struct walk {
    const char *p, *end;
    int line;
};

static void space(struct walk *w)
{
    for (; w->p < w->end && strchr(" \t\r\n", *w->p); w->p++)
        w->line += *w->p == '\n';
}

/* Past a string; its text, as it is written, in [*from, *to). */
static void string(struct walk *w, const char **from, const char **to)
{
    *from = ++w->p;
    while (w->p < w->end && *w->p != '"')
        w->p += *w->p == '\\' && w->p + 1 < w->end ? 2 : 1;
    *to = w->p;
    if (w->p < w->end)
        w->p++;
}

/* Past one value of any kind. */
static void skip(struct walk *w)
{
    const char *from, *to;
    int depth = 0;
    do {
        space(w);
        if (w->p >= w->end)
            return;
        if (*w->p == '"')
            string(w, &from, &to);
        else if (*w->p == '{' || *w->p == '[') {
            depth++;
            w->p++;
        } else if (*w->p == '}' || *w->p == ']') {
            depth--;
            w->p++;
        } else if (*w->p == ',' || *w->p == ':')
            w->p++;
        else
            w->p += strcspn(w->p, " \t\r\n,:]}");
    } while (depth > 0);
}

/* To the value of a member; false: it is not there. */
static bool member(struct walk *w, const char *name, size_t n)
{
    const char *from, *to;
    if (*w->p++ != '{')
        return false;
    for (space(w); w->p < w->end && *w->p == '"'; space(w)) {
        string(w, &from, &to);
        space(w);
        w->p++; /* the colon */
        space(w);
        if ((size_t)(to - from) == n && memcmp(from, name, n) == 0)
            return true;
        skip(w);
        space(w);
        if (w->p < w->end && *w->p == ',')
            w->p++;
    }
    return false;
}

static bool element(struct walk *w, unsigned long index)
{
    if (*w->p++ != '[')
        return false;
    for (space(w); w->p < w->end && *w->p != ']'; space(w)) {
        if (index-- == 0)
            return true;
        skip(w);
        space(w);
        if (w->p < w->end && *w->p == ',')
            w->p++;
    }
    return false;
}

int json_line_of(const char *text, size_t len, const char *path)
{
    struct walk w = { text, text + len, 1 };
    space(&w);
    int found = w.line;
    while (*path && w.p < w.end) {
        bool there;
        if (*path == '[') {
            char *end;
            there = element(&w, strtoul(path + 1, &end, 10));
            path = *end == ']' ? end + 1 : end;
        } else {
            size_t n = strcspn(path, ".[");
            there = member(&w, path, n);
            path += n;
        }
        if (!there)
            break;
        found = w.line;
        path += *path == '.';
    }
    return found;
}
