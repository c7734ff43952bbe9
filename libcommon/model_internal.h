/* model_internal.h - what model.c (reading) and model_check.c (checking) share; nobody else
 * includes it. */
#pragma once

#include "libcommon/model.h"

enum data_type {
    TYPE_INT,
    TYPE_LONG,
    TYPE_DECIMAL,
    TYPE_STRING,
    TYPE_DATE_TIME,
    TYPE_JSON_OBJECT,
    TYPE_ENUM,
    TYPE_BOOLEAN,
    TYPE_STRING_LIST,
};

/* Names that are looked up: an open hash over the order of the model. */
struct names {
    char **name;
    uint32_t n, mask;
    uint32_t *slot; /* index + 1; 0: free */
};
/* Index, or -1. */
int names_find(const struct names *names, const char *name, size_t len);

/* A bound as the model wrote it; whole numbers are compared as such. */
struct bound {
    bool set, whole;
    int64_t i;
    double d;
    char text[17];
};

struct value_rule {
    enum data_type type;
    bool required, writable;
    struct bound min, max;
    double step;        /* 0: none */
    int64_t max_length; /* -1: none */
    struct names allowed;
};

struct command {
    struct names para_names;
    struct value_rule *paras;
};

struct service {
    struct names property_names, command_names;
    struct value_rule *properties;
    struct command *commands;
};

struct cw_model {
    struct names service_names;
    struct service *services;
};

/* As models spell it: int, DateTime, "string list". */
const char *data_type_name(enum data_type type);
