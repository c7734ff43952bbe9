/* takeover.h - a device came while another gateway held it: that one is asked to let go. */
#pragma once

#include "services/mqtt-gateway/gateway.h"

/* session_flow(s) follows, at once or after takeover_ms at the latest. */
void takeover_begin(struct session *s, const char *old_gateway, int64_t old_session_no);
/* s goes first; the old gateway is asked all the same. */
void takeover_forget(struct session *s);
/* Those that are still under way at the end of the process, after its sessions. */
void takeovers_close(struct gateway *gw);
/* The same for a device whose new session ended before it began: nobody waits for the answer. */
void takeover_tell(struct gateway *gw, int64_t device_key, const char *old_gateway,
                   int64_t old_session_no);
