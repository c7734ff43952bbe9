#include "services/uplink-processor/why.h"

#include <stdlib.h>
#include <string.h>

static const char *const layers[] = { "connect", "authenticate", "topic",   "decode", "model",
                                      "rule",    "push",         "command", "upgrade" };

const char *why_layer(const char *name)
{
    for (size_t i = 0; i < CW_ARRAY_LEN(layers); i++)
        if (name && strcmp(layers[i], name) == 0)
            return layers[i];
    return NULL;
}

static char *copy(const char *text) { return text && *text ? cw_strdup(text) : NULL; }

static void clear(struct why_failure *f)
{
    free(f->code);
    free(f->reason);
    free(f->next_step);
    free(f->sample);
    f->code = f->reason = f->next_step = f->sample = NULL;
}

static void set_texts(struct why_failure *f, const struct why_told *told)
{
    clear(f);
    f->code = cw_strdup(told->code);
    f->reason = cw_strdup(told->reason);
    f->next_step = copy(told->next_step);
    f->sample = copy(told->sample);
}

void why_fail(struct why *w, const struct why_told *told)
{
    struct why_failure *f;
    struct why_key key;
    memset(&key, 0, sizeof key); /* hashed as a whole */
    key.device_key = told->device_key;
    strncpy(key.layer, told->layer, sizeof key.layer - 1);
    HASH_FIND(hh, w->failures, &key, sizeof key, f);
    if (!f) {
        f = cw_calloc(1, sizeof *f);
        f->key = key;
        f->first_ms = told->first_ms;
        HASH_ADD(hh, w->failures, key, sizeof f->key, f);
    } else if (strcmp(f->code, told->code) != 0) {
        why_change(w, key.device_key, f->first_ms, why_layer(told->layer), f->code,
                   cw_strdup(f->reason));
        f->first_ms = told->first_ms;
        f->count = 0;
    }
    f->count += told->count;
    f->last_ms = told->last_ms;
    set_texts(f, told);
}

void why_change(struct why *w, int64_t device_key, int64_t at_ms, const char *what,
                const char *code, char *text)
{
    if (w->n_changes == w->cap_changes) {
        w->cap_changes = w->cap_changes ? 2 * w->cap_changes : 16;
        w->changes = cw_realloc(w->changes, w->cap_changes * sizeof *w->changes);
    }
    w->changes[w->n_changes++] =
        (struct why_change){ device_key, at_ms, what ? what : "", copy(code), text };
}

void why_free(struct why *w)
{
    struct why_failure *f = w->failures, *next;
    HASH_CLEAR(hh, w->failures);
    for (; f; f = next) {
        next = f->hh.next;
        clear(f);
        free(f);
    }
    for (size_t i = 0; i < w->n_changes; i++) {
        free(w->changes[i].code);
        free(w->changes[i].text);
    }
    free(w->changes);
    *w = (struct why){ 0 };
}
