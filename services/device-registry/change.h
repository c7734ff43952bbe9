/* change.h - changing one device: its row is read, the change is built with its event, and written
 * if nobody else has written meanwhile; else all of it again. */
#pragma once

#include "services/device-registry/registry.h"

struct change {
    struct registry *r;
    struct cw_api_call *call;
    void (*make)(struct change *c, const PGresult *row); /* builds and sends the change */
    json_t *device;                                      /* as it will be answered, or NULL */
    int64_t device_key, version;
    uint32_t partition;
    int tries;
    char secret[36];                  /* reset of a secret: the new one */
    bool secondary;                   /* … and which one */
    const char *cause;                /* why a session is cut: word of its DISCONNECT */
    void (*answer)(struct change *c); /* after the session is cut; frees c */
};

/* Reads the row and calls make() with it; 404 when there is none. make() runs again, up to five
 * times, when somebody else was faster. It owns c: change_free() after the answer. */
void change_begin(struct registry *r, struct cw_api_call *call,
                  void (*make)(struct change *c, const PGresult *row));
void change_free(struct change *c);
/* Answers 503 and frees c. */
void change_no_db(struct change *c);
/* Answers with an error and frees c. */
#define change_fail(c, ...)                                                                        \
    do {                                                                                           \
        cw_api_fail((c)->call, __VA_ARGS__);                                                       \
        change_free(c);                                                                            \
    } while (0)
/* In the answer to the writing statement, which returns a row when it has written. True: it is
 * committed, and caches are told. False: it is tried again, or the call has been failed. */
bool change_written(struct change *c, const PGresult *res, const char *what);
/* The two halves of it, for who writes in more than one statement: after the commit; and when
 * somebody else was faster. */
void change_told(struct change *c);
void change_again(struct change *c);
/* The event of the change; body NULL: none. The caller frees data. */
struct cw_buf change_event(const struct change *c, const PGresult *row, Causeway__EventKind kind,
                           const json_t *body);
/* Cuts the session that the device has, then calls c->answer. When no gateway confirms it, the call
 * fails with 503 and a text that begins with done ("The device is frozen"). */
void change_cut(struct change *c, const char *done);
