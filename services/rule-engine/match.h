/* match.h - which rules an event concerns, and the notification it makes. No I/O. */
#pragma once

#include "libcommon/util.h"
#include "proto/causeway.pb-c.h"

/* An active rule with one of its actions: what an event is matched against. */
struct rule {
    char *rule_id, *action_id;
    char *app_id; /* NULL: every space */
};
struct rule_set {
    struct rule *rows[CAUSEWAY__EVENT_KIND__EVENT_COMMAND_STATUS + 1]; /* by kind of event */
    size_t n[CAUSEWAY__EVENT_KIND__EVENT_COMMAND_STATUS + 1];
};

/* Adds a rule; strings are copied. A subject that is not served is left out. */
void rule_set_add(struct rule_set *set, const char *resource, const char *event,
                  const char *rule_id, const char *action_id, const char *app_id);
void rule_set_free(struct rule_set *set); /* its content, not itself */

enum subject_state {
    SUBJECT_UNKNOWN, /* no such pair */
    SUBJECT_KNOWN,   /* IoTDA has it, this engine does not yet */
    SUBJECT_SERVED,
};
/* Of a rule's subject: "device.property", "report". */
enum subject_state subject_state(const char *resource, const char *event);
const char *subjects_served(void); /* for error texts */

typedef void rule_hit_fn(const struct rule *rule, void *arg);
/* Runs hit() for each action that is owed this event, in the order of adding; how many they are. */
size_t rule_set_match(const struct rule_set *set, const Causeway__Event *event, rule_hit_fn *hit,
                      void *arg);

/* Writes the notification of an event (docs/protocol/push.md), the same bytes each time. 0, or
 * -EBADMSG: the event's body is not the JSON object that its kind promises. */
int notification_write(struct cw_buf *out, const Causeway__Event *event);
