/* identity.h - what the files of identity share. */
#pragma once

#include "libcommon/api.h"
#include "libcommon/db.h"
#include "libcommon/service.h"
#include "services/identity/hash.h"

#define TOKEN_LIFE_MS (24LL * 3600 * 1000)

/* What a first start proposes; the row of whoever commits first counts. */
struct first_start {
    struct identity *identity;
    void (*serve)(struct identity *self);
    struct event *retry; /* NULL: over */
    char password[25];
    char hash[HASH_LEN];
};

struct identity {
    struct cw_app *app;
    struct hasher *hasher;
    struct first_start first;
    struct event *sweep;
    struct facts *facts;
    /* settings */
    uint8_t key_token[32], key_seal[32];
    char *region, *domain, *public_host, *public_ports, *ca_file;
    int64_t users_max, groups_max, policies_max, keys_max, failures_max, lockout_ms, audit_days;
};

/* tokens.c: KeystoneCreateToken */
void on_create_token(struct cw_api_call *call, void *self);
/* lists.c: what the SDKs ask before they talk, and what rest-gateway asks */
void on_list_projects(struct cw_api_call *call, void *self);
/* The names of the projects of the caller's account. */
void on_list_regions(struct cw_api_call *call, void *self);
/* The caller's account. */
void on_list_domains(struct cw_api_call *call, void *self);
/* A user by id, disabled ones too: what he may is rest-gateway's to judge. 404: none. */
void on_show_principal(struct cw_api_call *call, void *self);
/* The same by access key, with its secret opened. 404: none, or disabled. */
void on_show_access_key(struct cw_api_call *call, void *self);

/* Answers in the form of IAM errors and ends the call. */
void iam_fail(struct cw_api_call *call, int status, const char *fmt, ...) CW_PRINTF(3, 4);
/* The same for a result that is not what was hoped for: PostgreSQL is away, or a bug. */
void iam_fail_db(struct cw_api_call *call, const PGresult *res);

/* first_start.c: makes account, administrator, access key and project where there are none, writes
 * $VAR/access.d/identity.env, then serves (serve()). Repeats by itself when PostgreSQL goes. */
void first_start_run(struct identity *self, void (*serve)(struct identity *self));
/* No step follows; the proposed password is overwritten. Also if it is over. */
void first_start_stop(struct identity *self);

/* audit.c: for rest-gateway only; ListAuditRecords; what is older than audit_days goes. */
void on_write_audit(struct cw_api_call *call, void *self);
void on_list_audit(struct cw_api_call *call, void *self);
void audit_start(struct identity *i);
void audit_stop(struct identity *i); /* also if it was never started */

/* n letters and digits, none that look alike, and NUL. */
void random_text(char *out, size_t n);

/* Context of a sealed secret: the row that it belongs to. The caller frees. */
char *seal_context(const char *table, const char *key);
