/* facts.h - what a process tells of itself when somebody asks for GET …/facts
 * (docs/protocol/facts.md).
 *
 * The question comes on facts.ask; every instance answers to the asker's inbox with one JSON
 * object: daemon, instance, started, strict; settings: those of its own table that are numbers,
 * each {setting, value, unit, meaning}, with used and at_limit where that is known; listeners; and
 * what the daemon adds. Nothing secret, no paths. service.c does all this; a daemon states its
 * uses (a table) and facts() in struct cw_service. Loop thread only. */
#pragma once

#include <jansson.h>

#include "libcommon/error.h"

struct cw_app;
struct cw_facts;
struct ssl_ctx_st;

/* How much of a limit is used, for one that PostgreSQL knows. Ends with a zero row. */
struct cw_facts_use {
    const char *setting;    /* name of the row in the daemon's table of settings */
    const char *sql;        /* one number; cheap whatever the number of devices */
    enum cw_error at_limit; /* what a call is refused with then; of no code: */
    const char *then;       /* what happens instead, for a person */
};

/* In facts() of a daemon, which adds what it knows at once. protocol as docs/protocol/facts.md
 * names it; tls NULL: plain. */
void cw_facts_listener(struct cw_facts *f, const char *protocol, const char *address, int64_t port,
                       struct ssl_ctx_st *tls);
/* Of a limit that is this process's own. */
void cw_facts_used(struct cw_facts *f, const char *setting, int64_t used, const char *at_limit);
/* A member of the answer; takes the reference. */
void cw_facts_set(struct cw_facts *f, const char *name, json_t *take);

/* For service.c: answers from now on, until the bus closes. */
void cw_facts_serve(struct cw_app *app);
