/* downlink.h - what the platform says to devices: subject downlink.<instance>. */
#pragma once

#include "services/mqtt-gateway/session.h"

/* Serves what others ask; each gets one outcome, unless the process ends before. */
void downlinks_open(struct gateway *gw);
/* To a device that is here, as sent by another one; nobody is told what becomes of it. topic ends
 * with NUL. False: too much is unacknowledged or unread. */
bool downlink_deliver(struct session *s, struct text topic, const void *payload, size_t len,
                      uint8_t qos);
/* The device's PUBACK. */
void downlink_acked(struct session *s, uint16_t packet_id);
/* The session ends: what is unacknowledged is answered CLOSED. */
void downlinks_drop(struct session *s);
/* A copy of an answer for whoever waits for this request id. */
void downlink_answered(struct session *s, struct text request_id, const void *packed, size_t len);
/* to NULL: nobody asked. Not sent again: the asker has a limit of his own. */
void downlink_reply(struct gateway *gw, const char *to, Causeway__DownlinkReply *reply);
