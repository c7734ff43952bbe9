/* metrics.h - counters, gauges and histograms, written as Prometheus text. Loop thread only. */
#pragma once

#include "libcommon/util.h"

struct cw_metric; /* one time series; lives as long as the process */

/* labels: Prometheus form without braces, e.g. `partition="3"`, or NULL. The same name and labels
 * give the same series. Names begin causeway_. */
struct cw_metric *cw_counter(const char *name, const char *labels, const char *help);
/* Its value may fall. */
struct cw_metric *cw_gauge(const char *name, const char *labels, const char *help);
/* Thirteen buckets from 0.5 ms to 20 s, the same for all, and one above. */
struct cw_metric *cw_histogram_ms(const char *name, const char *labels, const char *help);

void cw_metric_add(struct cw_metric *m, int64_t n); /* counter, gauge */
void cw_metric_set(struct cw_metric *m, int64_t v); /* gauge */
void cw_metric_observe(struct cw_metric *m, double ms);
/* Of a histogram: how many were observed. */
int64_t cw_metric_value(const struct cw_metric *m);
/* Appends all series, by name, each name with its HELP and TYPE. */
void cw_metrics_write(struct cw_buf *out);
