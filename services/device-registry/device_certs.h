/* device_certs.h - certificates that devices have logged in with (docs/protocol/provisioning.md):
 * a record appears with the first login, and can be made INACTIVE. */
#pragma once

#include "services/device-registry/registry.h"

/* A page, newest first, by the beginning of the common name, by SHA-256. */
void list_device_certs(struct cw_api_call *call, void *self);
void show_device_cert(struct cw_api_call *call, void *self); /* with its PEM */
/* INACTIVE answers when the sessions of its devices are cut; 503 if nobody confirms that, and then
 * the change stands all the same. */
void update_device_cert(struct cw_api_call *call, void *self);
void delete_device_cert(struct cw_api_call *call, void *self);
void list_devices_of_cert(struct cw_api_call *call, void *self);

/* Certificates of a batch of logins that have no record yet. Zero it to start. */
struct device_certs {
    struct cw_db_array id, app_id, fingerprint, sha1, common_name, content, expires;
    size_t n;
};
void device_certs_add(struct device_certs *c, const char *app_id, const char *sha256,
                      const char *sha1, const ProtobufCBinaryData *der);
/* Sends the statement that keeps them, on the connection of logins, and empties c. Those beyond
 * CAUSEWAY_DEVICE_CERTS_MAX get none; their devices are let in. */
void device_certs_keep(struct registry *r, struct device_certs *c);
