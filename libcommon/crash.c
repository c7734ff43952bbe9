#include "libcommon/service.h"

#ifndef CW_RELEASE
#include <signal.h>
#include <stdlib.h>
#include <string.h>

#include "libcommon/ids.h"

void cw_crash_point(const char *name)
{
    static unsigned long passes;
    const char *at = getenv("CAUSEWAY_CRASH_AT");
    size_t len = strlen(name);
    if (!at || strncmp(at, name, len) != 0 || (at[len] != '\0' && at[len] != ':'))
        return;
    const char *count = at[len] ? at + len + 1 : "1";
    bool by_chance = *count == '~';
    unsigned long n = strtoul(count + by_chance, NULL, 10), dice = ++passes;
    if (by_chance)
        cw_random(&dice, sizeof dice);
    if (n && (by_chance ? dice % n == 0 : dice == n))
        raise(SIGKILL);
}
#endif
