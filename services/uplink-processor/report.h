/* report.h - a property report: parsed once, checked against the model, made into what is stored
 * and what is stated on EVENT. No I/O. */
#pragma once

#include "libcommon/json.h"
#include "libcommon/model.h"

#define REPORT_MAX_BYTES (64U << 10)

/* One service that fits the model, at least in part: for the shadow. */
struct report_part {
    const char *service_id; /* borrowed from the report */
    json_t *kept;           /* the properties that fit; owned */
    char time[32];          /* yyyyMMdd'T'HHmmss'Z' */
};

struct report {
    json_t *root;
    struct report_part *parts;
    size_t n_parts, cap_parts;
    struct cw_buf event;    /* {"services":[…]}: everything that was reported, fitting or not */
    size_t n_services;      /* in it */
    struct cw_buf verdicts; /* JSON array with a row per item that is wrong; empty when none is */
    struct cw_verdicts scratch;
    /* the first thing wrong with it, or code NULL; for why */
    const char *code;
    char reason[512];
    size_t n_wrong;
};

/* A report that cannot be read at all. */
struct report_refusal {
    const char *code; /* stable word */
    char reason[512];
    const char *next_step;
};

/* Reads one payload. model NULL: the product has none, so nothing fits. Returns 0, or -EBADMSG and
 * *refusal. r may be used again after report_reset(); zero it to start. */
int report_read(struct report *r, const void *data, size_t len, const struct cw_model *model,
                int64_t received_ms, struct report_refusal *refusal);
/* The same from what has been parsed already; takes the reference. */
int report_take(struct report *r, json_t *root, const struct cw_model *model, int64_t received_ms,
                struct report_refusal *refusal);
/* Keeps the memory of its lists. */
void report_reset(struct report *r);
/* Zeroes it; zeroed memory is fine. */
void report_free(struct report *r);

/* What to do about a verdict of the model. */
const char *report_next_step(const char *code);

/* Copies at most n bytes of text and cuts between characters; what is not UTF-8 gets '?'. */
void text_cut(char *out, size_t size, const char *text, size_t len);
