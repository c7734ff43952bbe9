/* iam.h - operations of users, groups, policies and keys: rows of one table.
 *
 * A row is a statement whose column `body` is the answer. $1 is the caller's user id; the others
 * come from where the row says. Without a row the thing is not there (404), or the number of them
 * is reached (403). */
#pragma once

#include "services/identity/identity.h"

#define IAM_PARAMS 8

struct iam_call;
struct iam_row {
    const char *operation;
    struct cw_stmt stmt;
    /* path:…, query:…, body:a.b.c; own: the caller, when he may about himself only; id: a new one;
     * max:…: a setting; hash, access, sealed, token: what before() has made */
    const char *params[IAM_PARAMS];
    const char *missing, *quota; /* what there is none of, or too many of */
    /* Runs first; goes on with iam_run(), or ends the call. NULL: nothing. */
    void (*before)(struct iam_call *c);
    /* May add to the answer. */
    void (*after)(struct iam_call *c, json_t *body);
    int status;
    bool changes; /* what rest-gateways keep of users and keys is void */
};
extern const struct iam_row iam_rows[]; /* ends with a row without operation */

struct iam_call {
    struct identity *self;
    struct cw_api_call *call;
    const struct iam_row *row;
    /* made by before(); wiped at the end */
    char hash[HASH_LEN], access[21], secret[41], token[65], token_hash[65];
    char *sealed;
};

/* Serves every row of the table: the handler of them all. */
void on_iam(struct cw_api_call *call, void *self);
void iam_run(struct iam_call *c);
/* Ends the call with an error of the IAM form. */
void iam_refuse(struct iam_call *c, int status, const char *fmt, ...) CW_PRINTF(3, 4);
/* A member of the body by its path a.b.c, or NULL. */
const json_t *iam_member(struct iam_call *c, const char *path);

/* iam_before.c */
void iam_hash_password(struct iam_call *c); /* body:user.password, if it is there */
void iam_check_password(
    struct iam_call *c);                   /* of the caller: original_password; then the new one */
void iam_check_policy(struct iam_call *c); /* body:role.policy, if it is there */
void iam_make_key(struct iam_call *c);
void iam_make_temporary(struct iam_call *c);
void iam_show_secret(struct iam_call *c, json_t *body);
/* What is wrong with a policy document, or NULL; out holds the text. */
const char *policy_fault(const json_t *document, char out[256]);
