/* subdevices.h - gateways and their children: what gateways ask for ($sub_device_manager), what
 * they are told of their list. */
#pragma once

#include "libcommon/log_read.h"
#include "services/device-registry/registry.h"

struct subdevices;

/* What a transaction of events.c has found in requests of devices; zero it to start. */
struct device_requests {
    struct cw_db_array request[7]; /* of $sub_device_manager: columns of registry.device_request */
    struct cw_db_array sdk[4];     /* of $sdk_info: device_key and three versions */
    size_t n_requests, n_sdk;
};
/* Looks into an EVENT_DEVICE_REQUEST. */
void requests_note(struct device_requests *r, const Causeway__Event *e, uint32_t partition);
void requests_store(struct device_requests *r, struct cw_log_txn *txn);
void requests_free(struct device_requests *r);

/* Answers the requests of own partitions, one after the other, each second and when woken; tells
 * gateways that are connected what has changed in their list. */
struct subdevices *subdevices_open(struct registry *r);
void subdevices_wake(struct subdevices *s);
/* At the end of the process: a request that is not answered yet is the next owner's. */
void subdevices_close(struct subdevices **s);
