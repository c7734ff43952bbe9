/* undelete.h - devices that were deleted, kept for undelete_days: all that went with the row, so
 * that the same device comes back, with its key, and with it history and shadow, which are kept by
 * key. */
#pragma once

#include "services/device-registry/registry.h"

/* Operations; self is the registry. A page, newest deletions first: who, when, why, until when. */
void list_deleted(struct cw_api_call *call, void *self);
/* The newest of that id: NO_DEVICE, DEVICE_TAKEN, NO_PRODUCT, NO_GATEWAY. Answers as ShowDevice.
 */
void undelete_device(struct cw_api_call *call, void *self);

/* Removes 1,000 at most that nobody can bring back any more. */
void undelete_sweep(struct registry *r);
