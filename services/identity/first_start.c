#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <event2/event.h>
#include <openssl/crypto.h>

#include "libcommon/crypto.h"
#include "libcommon/ids.h"
#include "services/identity/identity.h"

#define RETRY_MS     300
#define PASSWORD_LEN 24
#define SECRET_LEN   40
#define ACCESS_LEN   20

static const struct cw_stmt read_first = {
    "read_first", "SELECT p.project_id, p.name AS project, a.name AS domain, u.user_id, "
                  "u.name AS user_name, f.sealed_password, k.access, k.sealed "
                  "FROM first_access f JOIN principal u USING (user_id) "
                  "JOIN project p USING (project_id) JOIN account a ON a.domain_id = u.domain_id "
                  "JOIN access_key k USING (access)"
};
/* One statement, so that it happens as a whole; of two instances the second waits for the first
 * one's row and then does nothing. Foreign keys are looked at when it ends. */
static const struct cw_stmt make_first = {
    "make_first",
    "WITH mine AS (INSERT INTO first_access (user_id, project_id, access, sealed_password) "
    "VALUES ($1, $2, $3, $4) ON CONFLICT DO NOTHING RETURNING only_one), "
    "a AS (INSERT INTO account (domain_id, name) SELECT $5, $6 FROM mine), "
    "p AS (INSERT INTO project (project_id, domain_id, name) SELECT $2, $5, $7 FROM mine), "
    "u AS (INSERT INTO principal (user_id, domain_id, name, password_hash, role) "
    "SELECT $1, $5, $8, $9, 'administrator' FROM mine), "
    "g AS (INSERT INTO user_group (group_id, domain_id, name, description) "
    "SELECT $11, $5, 'admin', 'made with the account' FROM mine), "
    "m AS (INSERT INTO membership (group_id, user_id) SELECT $11, $1 FROM mine), "
    "r AS (INSERT INTO group_policy (group_id, project_id, role_id) "
    "SELECT $11, $2, '00000000000000000000000000000001' FROM mine) "
    "INSERT INTO access_key (access, user_id, sealed) SELECT $3, $1, $10 FROM mine"
};

char *seal_context(const char *table, const char *key)
{
    return cw_sprintf("identity.%s.%s", table, key);
}

static char *seal(struct identity *self, const char *table, const char *key, const char *plain)
{
    char *context = seal_context(table, key);
    char *sealed = cw_seal(self->key_seal, context, plain, strlen(plain));
    free(context);
    return sealed;
}

static char *unseal(struct identity *self, const char *table, const char *key, const char *sealed)
{
    char *context = seal_context(table, key), *plain = NULL;
    int rc = cw_unseal(&plain, NULL, self->key_seal, context, sealed);
    free(context);
    return rc == 0 ? plain : NULL;
}

/* Letters and digits, none that look alike; 56 of them: 5.8 bits each. */
void random_text(char *out, size_t n)
{
    static const char letters[] = "ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnpqrstuvwxyz23456789";
    for (size_t i = 0; i < n;) {
        uint8_t b;
        cw_random(&b, 1);
        if (b < 256 / (sizeof letters - 1) * (sizeof letters - 1))
            out[i++] = letters[b % (sizeof letters - 1)];
    }
    out[n] = '\0';
}

/* ---- access.d/identity.env */

static int write_whole(int fd, const char *text, size_t len)
{
    while (len) {
        ssize_t n = write(fd, text, len);
        if (n < 0)
            return -errno;
        text += n;
        len -= (size_t)n;
    }
    return fsync(fd) < 0 ? -errno : 0;
}

/* Replaces the file as a whole: a reader sees the old one or the new one. */
static int replace_file(const char *dir, const char *name, const struct cw_buf *text)
{
    char *path = cw_sprintf("%s/%s", dir, name), *fresh = cw_sprintf("%s.%d", path, (int)getpid());
    int rc = mkdir(dir, 0700) < 0 && errno != EEXIST ? -errno : 0;
    int fd = rc == 0 ? open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600) : -1;
    if (rc == 0 && fd < 0)
        rc = -errno;
    if (rc == 0)
        rc = write_whole(fd, text->data, text->len);
    if (fd >= 0)
        close(fd);
    if (rc == 0 && rename(fresh, path) < 0)
        rc = -errno;
    if (rc < 0 && fd >= 0)
        unlink(fresh);
    free(fresh);
    free(path);
    return rc;
}

static int write_access(struct identity *self, const PGresult *res, const char *password,
                        const char *secret)
{
    struct cw_buf text = { 0 };
    char *dir = cw_sprintf("%s/access.d", cw_app_var(self->app));
    cw_buf_printf(&text,
                  "CAUSEWAY_PROJECT_ID=%s\nCAUSEWAY_DOMAIN=%s\nCAUSEWAY_REGION=%s\n"
                  "CAUSEWAY_USER=%s\nCAUSEWAY_PASSWORD=%s\nCAUSEWAY_AK=%s\nCAUSEWAY_SK=%s\n",
                  cw_db_str(res, 0, "project_id"), cw_db_str(res, 0, "domain"),
                  cw_db_str(res, 0, "project"), cw_db_str(res, 0, "user_name"), password,
                  cw_db_str(res, 0, "access"), secret);
    int rc = replace_file(dir, "identity.env", &text);
    OPENSSL_cleanse(text.data, text.len);
    cw_buf_free(&text);
    free(dir);
    return rc;
}

/* ---- the steps: read; if there is nothing: hash, make, read again */

static void read_step(struct first_start *f);

static void retry(struct first_start *f)
{
    static const struct timeval soon = { 0, RETRY_MS * 1000L };
    evtimer_add(f->retry, &soon);
}

static void on_retry(evutil_socket_t fd, short what, void *arg)
{
    (void)fd, (void)what;
    read_step(arg);
}

static void complete(struct first_start *f, const PGresult *res)
{
    struct identity *self = f->identity;
    char *password = unseal(self, "first_access", cw_db_str(res, 0, "user_id"),
                            cw_db_str(res, 0, "sealed_password"));
    char *secret =
        unseal(self, "access_key", cw_db_str(res, 0, "access"), cw_db_str(res, 0, "sealed"));
    if (!password || !secret) {
        cw_app_fault(self->app, "first_access",
                     "what was sealed does not open: CAUSEWAY_KEY_SEAL is not the key it was");
    } else {
        int rc = write_access(self, res, password, secret);
        if (rc < 0)
            cw_app_fault(self->app, "access_file", "cannot write %s/access.d/identity.env: %s",
                         cw_app_var(self->app), strerror(-rc));
        if (strcmp(cw_db_str(res, 0, "project"), self->region) != 0)
            cw_log(CW_WARN, "region_differs", "project=%s setting=%s", cw_db_str(res, 0, "project"),
                   self->region);
        void (*serve)(struct identity *) = f->serve;
        first_start_stop(self);
        serve(self);
        cw_app_release(self->app, "first start");
    }
    free(password);
    free(secret);
}

static void on_made(PGresult *res, void *arg)
{
    struct first_start *f = arg;
    if (!f->retry)
        return; /* the daemon ends */
    if (cw_db_outcome(res) == CW_DB_BUG || cw_db_outcome(res) == CW_DB_REFUSED)
        cw_app_fault(f->identity->app, "first_access", "cannot be made: %s", cw_db_error(res));
    else if (cw_db_outcome(res) == CW_DB_RETRY)
        retry(f);
    else
        read_step(f);
}

static void make_step(struct first_start *f)
{
    struct identity *self = f->identity;
    char user_id[33], project_id[33], domain_id[33], group_id[33], access[ACCESS_LEN + 1],
        secret[SECRET_LEN + 1];
    cw_random_hex(user_id, 32);
    cw_random_hex(project_id, 32);
    cw_random_hex(domain_id, 32);
    cw_random_hex(group_id, 32);
    random_text(access, ACCESS_LEN);
    random_text(secret, SECRET_LEN);
    char *sealed_password = seal(self, "first_access", user_id, f->password);
    char *sealed_secret = seal(self, "access_key", access, secret);
    const struct cw_db_param params[] = {
        CW_TEXT(user_id),   CW_TEXT(project_id),    CW_TEXT(access),       CW_TEXT(sealed_password),
        CW_TEXT(domain_id), CW_TEXT(self->domain),  CW_TEXT(self->region), CW_TEXT("admin"),
        CW_TEXT(f->hash),   CW_TEXT(sealed_secret), CW_TEXT(group_id)
    };
    if (!cw_db_exec(cw_app_db(self->app), &make_first, CW_ARRAY_LEN(params), params, on_made, f))
        retry(f);
    OPENSSL_cleanse(secret, sizeof secret);
    free(sealed_password);
    free(sealed_secret);
}

static void on_hashed(bool ok, const char *hash, void *arg)
{
    struct first_start *f = arg;
    if (!f->retry)
        return; /* the daemon ends */
    if (!ok) {
        retry(f);
        return;
    }
    snprintf(f->hash, sizeof f->hash, "%s", hash);
    make_step(f);
}

static void on_read(PGresult *res, void *arg)
{
    struct first_start *f = arg;
    enum cw_db_outcome outcome = cw_db_outcome(res);
    if (!f->retry)
        return; /* the daemon ends */
    if (outcome == CW_DB_OK && PQntuples(res) == 1)
        complete(f, res);
    else if (outcome == CW_DB_BUG || outcome == CW_DB_REFUSED)
        cw_app_fault(f->identity->app, "first_access", "cannot be read: %s", cw_db_error(res));
    else if (outcome == CW_DB_RETRY ||
             hasher_ask(f->identity->hasher, f->password, NULL, on_hashed, f) < 0)
        retry(f);
}

static void read_step(struct first_start *f)
{
    if (!cw_db_exec(cw_app_db(f->identity->app), &read_first, 0, NULL, on_read, f))
        retry(f);
}

void first_start_run(struct identity *self, void (*serve)(struct identity *self))
{
    struct first_start *f = &self->first;
    f->identity = self;
    f->serve = serve;
    f->retry = evtimer_new(cw_app_base(self->app), on_retry, f);
    random_text(f->password, PASSWORD_LEN);
    cw_app_hold(self->app, "first start");
    read_step(f);
}

void first_start_stop(struct identity *self)
{
    if (!self->first.retry)
        return;
    event_free(self->first.retry);
    self->first.retry = NULL;
    OPENSSL_cleanse(self->first.password, sizeof self->first.password);
}
