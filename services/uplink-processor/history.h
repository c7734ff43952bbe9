/* history.h - the days of data.history: created ahead, dropped when old. */
#pragma once

#include <stdint.h>

struct cw_app;
struct history;

/* Holds the app's readiness until the days are there; looks again each hour. */
struct history *history_open(struct cw_app *app, int64_t days);
/* While none of its statements is under way. Sets *h to NULL; NULL is fine. */
void history_close(struct history **h);

/* The nearest time that a day exists for: a record whose clock was wrong is kept all the same. */
int64_t history_clamp(const struct history *h, int64_t received_ms);
