/* downlink.h - what the platform says to devices: subject downlink.<instance>. */
#pragma once

#include "services/mqtt-gateway/session.h"

/* Serves what others ask; each gets one outcome, unless the process ends before. */
void downlinks_open(struct gateway *gw);
/* To a device that is here, as sent by another one; nobody is told what becomes of it. False: too
 * much is unacknowledged or unread, or it does not take packets of that size. */
bool downlink_deliver(struct session *s, const Causeway__Routed *r, uint8_t qos);
/* The device's PUBACK; reason: of MQTT 5, from 0x80 on it does not take it. */
void downlink_acked(struct session *s, uint16_t packet_id, uint8_t reason);
/* The session ends: what is unacknowledged is answered CLOSED. */
void downlinks_drop(struct session *s);
/* A copy of an answer for whoever waits for this request id. */
void downlink_answered(struct session *s, struct text request_id, const void *packed, size_t len);
/* to NULL: nobody asked. Not sent again: the asker has a limit of his own. */
void downlink_reply(struct gateway *gw, const char *to, Causeway__DownlinkReply *reply);
