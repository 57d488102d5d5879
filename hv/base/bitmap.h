// SPDX-License-Identifier: Apache-2.0
/* Bitmaps of 64-bit words, bit i at word i/64, bit i%64 (KVM's dirty-log layout on little endian). */
#ifndef FERRY_BASE_BITMAP_H
#define FERRY_BASE_BITMAP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define FY_BITMAP_WORDS(bits) (((bits) + 63) / 64)

static inline bool fy_bit_test(const uint64_t *map, uint64_t i)
{
    return map[i / 64] >> (i % 64) & 1;
}

static inline void fy_bit_set(uint64_t *map, uint64_t i)
{
    map[i / 64] |= 1ull << (i % 64);
}

static inline void fy_bit_clear(uint64_t *map, uint64_t i)
{
    map[i / 64] &= ~(1ull << (i % 64));
}

/* Relaxed atomic set, for bitmaps that several threads mark. */
static inline void fy_bit_set_atomic(uint64_t *map, uint64_t i)
{
    __atomic_fetch_or(&map[i / 64], 1ull << (i % 64), __ATOMIC_RELAXED);
}

/* Set or clear bits [first, first + count). Not atomic. */
void fy_bits_set(uint64_t *map, uint64_t first, uint64_t count);
void fy_bits_clear(uint64_t *map, uint64_t first, uint64_t count);

/* Number of set bits in [first, first + count). */
uint64_t fy_bits_count(const uint64_t *map, uint64_t first, uint64_t count);

/* First set (or clear) bit in [first, end), or `end` where there is none. */
uint64_t fy_bits_next_set(const uint64_t *map, uint64_t first, uint64_t end);
uint64_t fy_bits_next_clear(const uint64_t *map, uint64_t first, uint64_t end);

#endif
