/* hash.h - passwords are hashed in one process of their own: it takes tens of milliseconds each.
 *
 * scrypt (N = 2^14, r = 8, p = 1), kept as "scrypt.14.<salt in hex>.<hash in hex>". The helper is
 * this program with --hash-helper; when it dies it is started again and asked again. Loop only. */
#pragma once

#include "libcommon/util.h"

#define HASH_LEN     160
#define PASSWORD_MAX 256 /* bytes */
#define HASH_QUEUE   64

struct event_base;
struct hasher;

/* ok: it was hashed, or it is the right password; hash is borrowed, "" after a check. */
typedef void hash_fn(bool ok, const char *hash, void *arg);

/* Hashes a new password (hash NULL), or checks one. 0, then cb runs once; -EAGAIN: the queue is
 * full; -EINVAL: the password is too long. */
int hasher_ask(struct hasher *h, const char *password, const char *hash, hash_fn *cb, void *arg);

/* Starts the helper; never NULL, what is asked waits until there is one. */
struct hasher *hasher_open(struct event_base *base);
void hasher_close(struct hasher **h); /* who waits is dropped */

/* The helper's whole life; main() runs it for --hash-helper. */
int hash_helper(void);

/* For tests: what the helper does. */
void hash_password(char out[HASH_LEN], const char *password);
/* False, too, for what is no hash of ours. */
bool hash_matches(const char *hash, const char *password);
