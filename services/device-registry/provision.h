/* provision.h - devices that register themselves (docs/protocol/provisioning.md): by a certificate
 * of a CA that a template is bound to, or by the secret or certificate of a registration group. */
#pragma once

#include "services/device-registry/trust.h"

/* api.registry.provision: one login of a device that may not be registered. */
void provision_open(const struct cw_bus_msg *msg, void *self);

/* ---- shared by provision.c and provision_scope.c */

struct provision {
    struct registry *r;
    Causeway__SessionOpenBatch *request;
    const Causeway__SessionOpen *open;
    char *reply_to;
    int64_t device_key; /* of the device, when it is known */
    struct trust_verdict verdict;
    struct trust_ca ca;
    json_t *device;   /* the body of AddDevice */
    char *policies;   /* ids, a comma between them; NULL: none */
    char *tags;       /* JSON; NULL: none */
    char *project_id; /* whose audit log is written */
    char *grounds;    /* what allows it, for the audit log */
    char *scope_id;   /* of which a place is taken; NULL: none */
    char request_id[33], audit_id[CW_RECORD_ID_LEN];
};

/* Each ends p. */
void provision_refuse(struct provision *p, const struct login_refusal *why);
void CW_PRINTF(5, 6) provision_deny(struct provision *p, unsigned connack, const char *code,
                                    const char *next_step, const char *fmt, ...);
void provision_unavailable(struct provision *p);
/* True: p has ended. So many registrations a second, and as many at once. */
bool provision_too_fast(struct provision *p);
/* It is registered: on as any login. */
void provision_login(struct provision *p);
/* Checks p->device, writes the audit log, registers it, and lets it in. secret: NULL without. */
void provision_register(struct provision *p, const char *secret);

/* provision_scope.c: the client id names a registration group. */
void provision_by_scope(struct provision *p);
/* The registration failed: its place in the group is free again. */
void provision_leave_scope(struct provision *p);
