// SPDX-License-Identifier: Apache-2.0
/* Arithmetic on numbers from outside: true when the result does not fit. */
#ifndef FERRY_BASE_CHECKED_H
#define FERRY_BASE_CHECKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

static inline bool fy_add_overflow(uint64_t a, uint64_t b, uint64_t *sum)
{
    return __builtin_add_overflow(a, b, sum);
}

static inline bool fy_mul_overflow(uint64_t a, uint64_t b, uint64_t *product)
{
    return __builtin_mul_overflow(a, b, product);
}

/* True when [offset, offset + len) lies within [0, size). */
static inline bool fy_range_ok(uint64_t offset, uint64_t len, uint64_t size)
{
    return offset <= size && len <= size - offset;
}

#define FY_ARRAY_LEN(a) (sizeof(a) / sizeof((a)[0]))
#define FY_MIN(a, b) ((a) < (b) ? (a) : (b))
#define FY_MAX(a, b) ((a) > (b) ? (a) : (b))
#define FY_DIV_UP(a, b) (((a) + (b)-1) / (b))
#define FY_ALIGN_UP(a, b) (FY_DIV_UP(a, b) * (b))

#define FY_PAGE_SHIFT 12
#define FY_PAGE_SIZE 4096u

#endif
