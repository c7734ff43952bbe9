/* device_status.h - what an event of EVENT_DEVICE_STATUS says the device has become.
 *
 * The status stands in the event beside its body, so that a reader of thousands a second need not
 * parse JSON. Records that an older release wrote have it in their body alone. */
#pragma once

#include "proto/causeway.pb-c.h"

/* STATUS_NOT_TOLD: of another kind, or not understood. */
Causeway__DeviceStatus cw_device_status(const Causeway__Event *e);
/* The status of a word as columns and bodies spell it; STATUS_NOT_TOLD: there is no such. */
Causeway__DeviceStatus cw_device_status_of(const char *word);
/* "ONLINE", "OFFLINE", "ABNORMAL"; NULL for STATUS_NOT_TOLD. Static. */
const char *cw_device_status_word(Causeway__DeviceStatus status);
