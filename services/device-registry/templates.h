/* templates.h - provisioning templates, as openapi.json has them (docs/protocol/provisioning.md).
 */
#pragma once

#include "services/device-registry/registry.h"

void create_template(struct cw_api_call *call, void *self); /* TEMPLATE_BAD names the field */
void list_templates(struct cw_api_call *call, void *self);  /* newest first, without bodies */
void show_template(struct cw_api_call *call, void *self);
void update_template(struct cw_api_call *call, void *self);
void delete_template(struct cw_api_call *call, void *self); /* TEMPLATE_IN_USE */
