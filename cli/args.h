// SPDX-License-Identifier: Apache-2.0
/* Numbers with units, and unambiguous prefixes. Pure. */
#ifndef FERRY_CLI_ARGS_H
#define FERRY_CLI_ARGS_H

#include <stddef.h>
#include <stdint.h>

/* "4096", "512K", "1.5G", "2GiB": bytes (powers of 1024). 0, or -1 when it is no size or does not fit. */
int cli_parse_size(const char *text, uint64_t *bytes);

/* "50ms", "2s", "1.5m", "300us": nanoseconds; a unit is needed. 0 or -1. */
int cli_parse_time(const char *text, uint64_t *ns);

/* A whole number within [min, max]. 0 or -1. */
int cli_parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value);

/* "auto", "none", "lz4", "zstd", "zstd:3", "lz4:1". *level is set when has_level. 0 or -1. */
int cli_parse_codec(const char *text, char name[8], int *level, int *has_level);

/* Index of the one word that begins with `text` (an exact match wins), -1 for none, -2 for more than one.
 * `stride` is the distance between the words' pointers in bytes; the list ends with a NULL word. */
int cli_prefix(const char *text, const char *const *words, size_t stride);

#endif
