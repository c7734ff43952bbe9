/* alike.h - which of some names was meant by one that is none of them. */
#pragma once

#include <stddef.h>

#define CW_ALIKE_MAX 64 /* longest name that is compared, in bytes */

/* The name most like the given one: a third of its letters, or two, are wrong at most, either case
 * being equal. NULL if none is alike. Borrowed from names. */
const char *cw_alike(const char *name, size_t len, const char *const *names, size_t n);
