/* audit.h - changes are written into the audit log before their owner is asked, and how they ended
 * after that. Many travel together: while one message is with identity, the next gathers. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct audit;

/* Texts are copied. */
struct audit_record {
    const char *project_id, *user_id, *user_name, *peer, *request_id, *operation, *method,
        *resource;
};

/* rc 0: it is in the log; negative: it is not, and the change must not be made. */
typedef void audit_fn(int rc, void *arg);
/* cb runs once, later. id is what audit_end() wants. */
void audit_begin(struct audit *a, const struct audit_record *r, char id[25], audit_fn *cb,
                 void *arg);
/* How the change ended; a hint: it may be lost, and the record then has no status.
 * error_code and resource_id may be NULL. */
void audit_end(struct audit *a, const char *id, int status, const char *error_code,
               const char *resource_id);

struct audit *audit_open(struct cw_app *app); /* never NULL */
void audit_close(struct audit **a);           /* who waits gets -ENOTCONN */
