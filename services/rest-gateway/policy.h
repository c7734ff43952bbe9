/* policy.h - what policy documents (version 1.1) allow: in which resource spaces a user may do an
 * action. No I/O.
 *
 * Allow adds spaces, Deny takes them away, whatever their order; what nothing allows is denied. A
 * statement without Resource, or with "*", speaks of all spaces; else iotda:*:*:app:<app_id> names
 * one. */
#pragma once

#include <jansson.h>

#include "libcommon/util.h"

#define ACCESS_SPACES 128 /* names of spaces that count in one question */

/* Texts are borrowed from the documents. */
struct access {
    bool all, none; /* all: but those denied; none: denied everywhere */
    const char *allowed[ACCESS_SPACES], *denied[ACCESS_SPACES];
    size_t n_allowed, n_denied;
};

/* What grants ([{project_id, policy}], as identity tells them) allow of action. project NULL: those
 * of any project. */
void access_of_grants(struct access *out, const json_t *grants, const char *project,
                      const char *action);
/* What is left of it under a further document, as temporary keys have one. */
void access_limit(struct access *a, const json_t *document, const char *action);
/* True if there is a space in which it is allowed. */
bool access_any(const struct access *a);
/* True if it is allowed without looking at spaces. */
bool access_everywhere(const struct access *a);
