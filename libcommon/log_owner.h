/* log_owner.h - which instance of a reader group works on which partition of a log.
 *
 * Members and owners are PostgreSQL advisory locks held by one connection of each instance, so the
 * end of that connection is the end of what it owned. Partition p belongs to members[p % n]; the
 * others finish what they have of it and let go. A lock only says who should try: what makes two
 * owners harmless is the position's UPDATE (log_read.h). An owner whose position does not move for
 * 10 s although records wait is taken for stopped: another member ends its connection, which also
 * ends its open transaction. Loop thread only. */
#pragma once

#include "libcommon/util.h"

struct cw_app;
struct cw_db;
struct cw_log_owner;

struct cw_log_owner_config {
    const char *log;    /* CW_LOG_UPLINK … */
    const char *group;  /* the daemon's name */
    const char *schema; /* of the position table, and of outbox */
    bool outbox;        /* rows in <schema>.outbox count as waiting work, too */
    void *self;

    /* The lock is held: read the position, begin. */
    void (*gained)(uint32_t partition, void *self);
    /* Somebody else is to have it: finish what is at hand, start nothing more, then
     * cw_log_owner_released(), at once or later. */
    void (*release)(uint32_t partition, void *self);
    /* The connection is gone and the lock with it: forget everything. No answer. */
    void (*lost)(uint32_t partition, void *self);
};

/* db must be the connection on which the owner's transactions run, and not be shared with anything
 * else; it must outlive the owner. Callbacks come from the loop, never from inside this call. */
struct cw_log_owner *cw_log_owner_open(struct cw_app *app, struct cw_db *db,
                                       const struct cw_log_owner_config *cfg);
/* True from gained() until cw_log_owner_released() or lost(). */
bool cw_log_owner_has(const struct cw_log_owner *o, uint32_t partition);
/* Nothing of the partition is under way any more: the lock goes, and another member takes it. After
 * release(), or by one's own choice when the position has moved. */
void cw_log_owner_released(struct cw_log_owner *o, uint32_t partition);
/* Takes no more partitions, asks for the release of all, and leaves the group; the app's drain
 * waits for that. */
void cw_log_owner_drain(struct cw_log_owner *o);
/* Number of instances at the last look; 0: not known yet. */
unsigned cw_log_owner_members(const struct cw_log_owner *o);
/* Frees; the locks go with the connection. No callback runs. Sets *o to NULL. */
void cw_log_owner_close(struct cw_log_owner **o);
