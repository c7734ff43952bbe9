/* options.c - the command line is a table; --help is printed from it. */
#include "measure.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void help(const struct option_row *rows, size_t count, const char *head, const char *foot)
{
    printf("%s\n\n", head);
    for (size_t i = 0; i < count; i++) {
        char left[40];
        snprintf(left, sizeof left, "--%s%s", rows[i].name, rows[i].type == OPT_FLAG ? "" : " X");
        printf("  %-18s %s", left, rows[i].help);
        if (rows[i].fallback && *rows[i].fallback)
            printf(" [%s]", rows[i].fallback);
        putchar('\n');
    }
    printf("\n%s\n", foot);
}

_Noreturn void options_wrong(const char *what, const char *detail)
{
    fprintf(stderr, "%s: %s: %s (see --help)\n", program_invocation_short_name, what, detail);
    exit(OPTIONS_WRONG);
}

static void set(void *into, const struct option_row *r, char *value)
{
    void *at = (char *)into + r->into;
    char *end;
    if (r->type == OPT_FLAG) {
        *(bool *)at = true;
    } else if (r->type == OPT_TEXT) {
        *(char **)at = value;
    } else {
        long n = strtol(value, &end, 10);
        if (!*value || *end || n < r->min || n > r->max)
            options_wrong(r->name, "not a number in its range");
        *(long *)at = n;
    }
}

void options_read(void *into, const struct option_row *rows, size_t count, const char *head,
                  const char *foot, int argc, char **argv)
{
    for (size_t i = 0; i < count; i++)
        if (rows[i].fallback)
            set(into, &rows[i], (char *)rows[i].fallback);
    for (int a = 1; a < argc; a++) {
        size_t i = 0;
        if (!strcmp(argv[a], "--help")) {
            help(rows, count, head, foot);
            exit(0);
        }
        while (i < count && (strncmp(argv[a], "--", 2) || strcmp(argv[a] + 2, rows[i].name)))
            i++;
        if (i == count)
            options_wrong("unknown option", argv[a]);
        if (rows[i].type != OPT_FLAG && ++a == argc)
            options_wrong(rows[i].name, "needs a value");
        set(into, &rows[i], rows[i].type == OPT_FLAG ? NULL : argv[a]);
    }
}
