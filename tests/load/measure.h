/* measure.h - what the generators of load share: time, a histogram, a command line that is a table.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Monotonic, microseconds. */
int64_t now_us(void);
/* Since 1970, microseconds: what --stamp writes and the sink subtracts. */
int64_t wall_us(void);

/* ---- histogram: microseconds, each value kept to 1.6 % */
#define HIST_BUCKETS 2048
struct histogram {
    uint64_t n, max_us, bucket[HIST_BUCKETS];
};
void hist_add(struct histogram *h, uint64_t us);
/* The value below which `part` (0..1) of all lie; 0 when there are none. */
uint64_t hist_at(const struct histogram *h, double part);
/* {"p50":…,"p90":…,"p99":…,"p999":…,"max":…}; a buffer of this function. */
const char *hist_json(const struct histogram *h);
/* A line "NAME ms: p50 …"; nothing when there are no values. */
void hist_print(const char *name, const struct histogram *h);

/* ---- a command line: one row an option */
enum option_type { OPT_TEXT, OPT_NUMBER, OPT_FLAG };
struct option_row {
    const char *name;
    enum option_type type;
    size_t into;          /* char *, long or bool at this offset */
    const char *fallback; /* NULL: none */
    long min, max;        /* of numbers */
    const char *help;
};
#define OPTIONS_WRONG 2
/* Fills *into; --help prints head, the table and foot and ends the process with 0; a mistake is
 * named and ends it with OPTIONS_WRONG. Texts point into argv. */
void options_read(void *into, const struct option_row *rows, size_t count, const char *head,
                  const char *foot, int argc, char **argv);
/* Says what is wrong and ends the process with OPTIONS_WRONG. */
_Noreturn void options_wrong(const char *what, const char *detail);
