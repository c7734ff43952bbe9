/* groups.h - tags of devices, the search for devices, device groups. docs/protocol/device-search.md
 * tells how they fit together. */
#pragma once

#include "services/device-registry/registry.h"

struct group_keeper;

#define GROUP_DEPTH_MAX 5
#define GROUP_RULE_MAX  400

/* ---- tags.c: operations; self is the registry */

/* TAG_TWICE, TAG_QUOTA. A key that the device has gets the new value. */
void bind_tags(struct cw_api_call *call, void *self);
/* TAG_TWICE, NO_TAG: then none is taken away. */
void unbind_tags(struct cw_api_call *call, void *self);
/* Devices that have one of the tags; a tag without a value stands for any value. */
void list_tagged(struct cw_api_call *call, void *self);

/* ---- search.c */

/* SEARCH_WRONG says at which character; SEARCH_WIDE after search_ms; SEARCH_BUSY behind too many
 * others, or as long. */
void search_devices(struct cw_api_call *call, void *self);
struct searches *searches_open(struct registry *r);
/* Who waits is told that the database is away. Sets *s to NULL; NULL is fine. */
void searches_close(struct searches **s);

/* ---- groups.c, group_members.c */

void list_groups(struct cw_api_call *call, void *self);
/* GROUP_TAKEN, GROUP_QUOTA, GROUP_PARENT, GROUP_RULE. */
void add_group(struct cw_api_call *call, void *self);
void show_group(struct cw_api_call *call, void *self);
void update_group(struct cw_api_call *call, void *self);
/* GROUP_NOT_EMPTY while it has groups below it or, a static one, devices. */
void delete_group(struct cw_api_call *call, void *self);
/* CreateOrDeleteDeviceInGroup: adding twice is fine; GROUP_IS_DYNAMIC, GROUP_FULL, NOT_IN_GROUP. */
void change_member(struct cw_api_call *call, void *self);
void list_members(struct cw_api_call *call, void *self);
void list_groups_of_device(struct cw_api_call *call, void *self);
/* GROUP's 404. */
bool group_is_there(struct cw_api_call *call, bool is);

/* ---- group_keeper.c: who is in a dynamic group follows what the devices are, within a second. One
 * instance at a time works off what was touched; what it has not committed, the next one does. */
struct group_keeper *group_keeper_open(struct registry *r);
/* A group was made: its devices are looked for at once. */
void group_keeper_wake(struct group_keeper *k);
/* Sets *k to NULL; NULL is fine. */
void group_keeper_close(struct group_keeper **k);
