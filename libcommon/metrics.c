#include "libcommon/metrics.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

enum kind { COUNTER, GAUGE, HISTOGRAM };
static const char *const kind_names[] = { "counter", "gauge", "histogram" };

static const double bounds_ms[] = { 0.5, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 5000, 20000 };
#define N_BOUNDS CW_ARRAY_LEN(bounds_ms)

struct cw_metric {
    struct cw_metric *next; /* kept in order of name, so that a family stands together */
    char *name, *labels, *help;
    enum kind kind;
    int64_t value; /* histogram: number of observations */
    double sum_ms;
    int64_t buckets[N_BOUNDS]; /* not cumulative */
};
static struct cw_metric *all;

static struct cw_metric *find_or_make(enum kind kind, const char *name, const char *labels,
                                      const char *help)
{
    struct cw_metric **at = &all;
    labels = labels ? labels : "";
    for (int order; *at && (order = strcmp((*at)->name, name)) <= 0; at = &(*at)->next)
        if (order == 0 && strcmp((*at)->labels, labels) == 0)
            return *at;
    struct cw_metric *m = cw_calloc(1, sizeof *m);
    *m = (struct cw_metric){ .next = *at,
                             .name = cw_strdup(name),
                             .labels = cw_strdup(labels),
                             .help = cw_strdup(help),
                             .kind = kind };
    return *at = m;
}

struct cw_metric *cw_counter(const char *name, const char *labels, const char *help)
{
    return find_or_make(COUNTER, name, labels, help);
}

struct cw_metric *cw_gauge(const char *name, const char *labels, const char *help)
{
    return find_or_make(GAUGE, name, labels, help);
}

struct cw_metric *cw_histogram_ms(const char *name, const char *labels, const char *help)
{
    return find_or_make(HISTOGRAM, name, labels, help);
}

void cw_metric_add(struct cw_metric *m, int64_t n) { m->value += n; }

void cw_metric_set(struct cw_metric *m, int64_t v) { m->value = v; }

void cw_metric_observe(struct cw_metric *m, double ms)
{
    m->value++;
    m->sum_ms += ms;
    for (size_t i = 0; i < N_BOUNDS; i++)
        if (ms <= bounds_ms[i]) {
            m->buckets[i]++;
            return;
        }
}

int64_t cw_metric_value(const struct cw_metric *m) { return m->value; }

static void write_plain(struct cw_buf *out, const struct cw_metric *m, const char *suffix,
                        const char *value)
{
    const char *open = *m->labels ? "{" : "", *close = *m->labels ? "}" : "";
    cw_buf_printf(out, "%s%s%s%s%s %s\n", m->name, suffix, open, m->labels, close, value);
}

static void write_histogram(struct cw_buf *out, const struct cw_metric *m)
{
    const char *comma = *m->labels ? "," : "";
    char text[40];
    int64_t up_to = 0;
    for (size_t i = 0; i < N_BOUNDS; i++) {
        up_to += m->buckets[i];
        cw_buf_printf(out, "%s_bucket{%s%sle=\"%g\"} %" PRId64 "\n", m->name, m->labels, comma,
                      bounds_ms[i], up_to);
    }
    cw_buf_printf(out, "%s_bucket{%s%sle=\"+Inf\"} %" PRId64 "\n", m->name, m->labels, comma,
                  m->value);
    snprintf(text, sizeof text, "%.3f", m->sum_ms);
    write_plain(out, m, "_sum", text);
    snprintf(text, sizeof text, "%" PRId64, m->value);
    write_plain(out, m, "_count", text);
}

void cw_metrics_write(struct cw_buf *out)
{
    const char *family = "";
    for (const struct cw_metric *m = all; m; m = m->next) {
        if (strcmp(family, m->name) != 0)
            cw_buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", m->name, m->help, m->name,
                          kind_names[m->kind]);
        family = m->name;
        if (m->kind == HISTOGRAM) {
            write_histogram(out, m);
            continue;
        }
        char text[24];
        snprintf(text, sizeof text, "%" PRId64, m->value);
        write_plain(out, m, "", text);
    }
}
