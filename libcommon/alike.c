#include "libcommon/alike.h"

#include <string.h>

static unsigned least(unsigned a, unsigned b) { return a < b ? a : b; }

static int lower(char c) { return c >= 'A' && c <= 'Z' ? c + 32 : c; }

/* Edits (insert, remove, replace, swap neighbours) from a to b, letters of either case being equal.
 * Both at most CW_ALIKE_MAX bytes. */
static unsigned distance(const char *a, size_t a_len, const char *b, size_t b_len)
{
    unsigned rows[3][CW_ALIKE_MAX + 1];
    for (unsigned j = 0; j <= b_len; j++)
        rows[0][j] = j;
    for (unsigned i = 1; i <= a_len; i++) {
        unsigned *now = rows[i % 3], *last = rows[(i + 2) % 3], *before = rows[(i + 1) % 3];
        now[0] = i;
        for (unsigned j = 1; j <= b_len; j++) {
            int x = lower(a[i - 1]), y = lower(b[j - 1]);
            now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + (x != y));
            if (i > 1 && j > 1 && x == lower(b[j - 2]) && lower(a[i - 2]) == y)
                now[j] = least(now[j], before[j - 2] + 1);
        }
    }
    return rows[a_len % 3][b_len];
}

const char *cw_alike(const char *name, size_t len, const char *const *names, size_t n)
{
    unsigned best = (unsigned)(len / 3 > 2 ? len / 3 : 2) + 1;
    const char *found = NULL;
    if (len > CW_ALIKE_MAX || len < 2)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t its = strlen(names[i]);
        if (its > CW_ALIKE_MAX || (its > len ? its - len : len - its) >= best)
            continue;
        unsigned d = distance(name, len, names[i], its);
        if (d < best && d < its) {
            best = d;
            found = names[i];
        }
    }
    return found;
}
