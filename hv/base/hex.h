// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_BASE_HEX_H
#define FERRY_BASE_HEX_H

#include <stddef.h>
#include <stdint.h>

#define FY_UUID_LEN 16
#define FY_UUID_TEXT 37

/* Lower-case hex of len bytes into out (2 * len + 1 bytes). */
void fy_hex(const void *buf, size_t len, char *out);

/* Exactly len bytes from 2 * len hex digits followed by NUL. 0, or -1 for anything else. */
int fy_unhex(const char *text, void *buf, size_t len);

/* RFC 9562 text form, and back (any case). fy_uuid_new makes a random version 4 one. */
void fy_uuid_format(const uint8_t uuid[FY_UUID_LEN], char out[FY_UUID_TEXT]);
int fy_uuid_parse(const char *text, uint8_t uuid[FY_UUID_LEN]);
void fy_uuid_new(uint8_t uuid[FY_UUID_LEN]);

#endif
