// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_TESTS_FUZZ_OPS_H
#define FERRY_TESTS_FUZZ_OPS_H

#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* The operations, from the input as long as there are any, then derived ones. */
static inline uint32_t fuzz_next_op(const uint8_t **data, size_t *size, uint64_t *seed)
{
    uint32_t op;
    if (*size >= 4) {
        memcpy(&op, *data, 4);
        *data += 4;
        *size -= 4;
        return op;
    }
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return (uint32_t)(*seed >> 16);
}

#endif
