/* ids.h - identifiers, random bytes and the partition of a device. */
#pragma once

#include <stddef.h>
#include <stdint.h>

void cw_random(void *out, size_t n);           /* cryptographic; never fails (ends the process) */
char *cw_random_hex(char *out, size_t digits); /* out needs digits + 1 bytes */
#define CW_UUID_LEN 37
char *cw_uuid(char out[CW_UUID_LEN]); /* version 4, lower case */
#define CW_RECORD_ID_LEN 25
/* 24 lower-case hex digits, growing: 4 bytes of seconds, 8 of counter: the record ids of paging. */
char *cw_record_id(char out[CW_RECORD_ID_LEN]);

/* FNV-1a 64 of the id of the directly connected device, folded, modulo partitions. Every log and
 * every table that names a partition uses this one function. */
uint32_t cw_partition(const char *id, size_t len, uint32_t partitions);
uint64_t cw_hash(const void *p, size_t n); /* FNV-1a 64 */
