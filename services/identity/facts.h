/* facts.h - GET …/facts (docs/protocol/facts.md): what all processes tell of themselves, as one
 * answer. identity asks, since it knows who the caller is and has no data road to hold up. */
#pragma once

#include "services/identity/identity.h"

struct facts_ports; /* of CAUSEWAY_PUBLIC_PORTS */

struct facts {
    struct identity *i;
    struct facts_ports *ports;
    char *ca;               /* PEM; NULL: none was named */
    struct cw_bus_sub *sub; /* answers come; NULL: nothing is asked */
    struct event *end, *quiet;
    json_t *answers; /* by instance */
    struct cw_api_call *calls[64];
    size_t n_calls;
};

/* NULL after logging which setting is wrong. */
struct facts *facts_open(struct identity *i);
/* Calls that wait are answered 503. NULL is fine. */
void facts_close(struct facts **f);
/* ShowFacts: asks every process, or waits for the answers that are on their way. What has not
 * answered within a second is named as missing. */
void on_show_facts(struct cw_api_call *call, void *self);

/* ---- facts_answer.c */

/* Names of the daemons that are asked (proto/subjects.h) and have no answer here. */
json_t *facts_missing(const json_t *answers);
/* From CAUSEWAY_PUBLIC_PORTS; NULL after writing what is wrong to err. */
struct facts_ports *facts_ports_read(const char *text, char *err, size_t size);
/* The members of the answer that are the same for every caller. */
json_t *facts_merge(const struct facts *f, const json_t *answers);

/* ---- facts_lines.c */

/* What lines are about. */
struct facts_caller {
    const char *project_id, *project_name, *domain_name, *user_name;
};
/* [{title, needs, language, text}] for the addresses; ca: ca_certificate is told. */
json_t *facts_lines(const struct facts_caller *c, const json_t *addresses, bool ca);
/* [{sdk, …}]: what constructors of the device SDKs want. */
json_t *facts_sdks(const json_t *addresses);
