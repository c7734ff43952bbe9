/* uplink.h - a session's records into UPLINK; the device is acknowledged when they are stored. */
#pragma once

#include "services/mqtt-gateway/session.h"

/* The first record of a session. */
void uplink_connect(struct session *s);
/* The last one: session_over() follows when it is stored. In doubt it is stated again. */
void uplink_disconnect(struct session *s, const char *cause);
/* Stores the frame, or why it is refused; the device gets its PUBACK for either. In doubt it gets
 * none, and the connection ends. */
void uplink_publish(struct session *s, const struct packet_publish *pub);
/* Payload above 1 MB: counted as refused and noticed; the connection ends. */
void uplink_oversize(struct session *s);
