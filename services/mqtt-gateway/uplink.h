/* uplink.h - a session's records into UPLINK; the device is acknowledged when they are stored. */
#pragma once

#include "services/mqtt-gateway/session.h"

void uplink_connect(struct session *s);
void uplink_disconnect(struct session *s, const char *cause);
void uplink_publish(struct session *s, const struct packet_publish *pub);
/* Payload above 1 MB: counted as refused and noticed; the connection ends. */
void uplink_oversize(struct session *s);
