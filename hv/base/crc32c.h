// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_BASE_CRC32C_H
#define FERRY_BASE_CRC32C_H

#include <stddef.h>
#include <stdint.h>

/* CRC-32C (Castagnoli, RFC 3720 section B.4): start with crc = 0, feed the result back to continue.
 * Uses the SSE4.2 instruction where the host has it. Any thread. */
uint32_t fy_crc32c(uint32_t crc, const void *buf, size_t len);

#endif
