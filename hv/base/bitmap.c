// SPDX-License-Identifier: Apache-2.0
#include "hv/base/bitmap.h"

/* Mask of the bits of word w that lie in [first, end); first < end, w within. */
static uint64_t word_mask(uint64_t w, uint64_t first, uint64_t end)
{
    uint64_t mask = ~0ull;
    if (w == first / 64)
        mask &= ~0ull << (first % 64);
    if (w == (end - 1) / 64 && end % 64)
        mask &= ~0ull >> (64 - end % 64);
    return mask;
}

void fy_bits_set(uint64_t *map, uint64_t first, uint64_t count)
{
    if (!count)
        return;
    for (uint64_t w = first / 64; w <= (first + count - 1) / 64; w++)
        map[w] |= word_mask(w, first, first + count);
}

void fy_bits_clear(uint64_t *map, uint64_t first, uint64_t count)
{
    if (!count)
        return;
    for (uint64_t w = first / 64; w <= (first + count - 1) / 64; w++)
        map[w] &= ~word_mask(w, first, first + count);
}

uint64_t fy_bits_count(const uint64_t *map, uint64_t first, uint64_t count)
{
    uint64_t n = 0;
    if (!count)
        return 0;
    for (uint64_t w = first / 64; w <= (first + count - 1) / 64; w++)
        n += (uint64_t)__builtin_popcountll(map[w] & word_mask(w, first, first + count));
    return n;
}

static uint64_t next(const uint64_t *map, uint64_t first, uint64_t end, uint64_t invert)
{
    if (first >= end)
        return end;
    for (uint64_t w = first / 64; w <= (end - 1) / 64; w++) {
        uint64_t bits = (map[w] ^ invert) & word_mask(w, first, end);
        if (bits)
            return w * 64 + (uint64_t)__builtin_ctzll(bits);
    }
    return end;
}

uint64_t fy_bits_next_set(const uint64_t *map, uint64_t first, uint64_t end)
{
    return next(map, first, end, 0);
}

uint64_t fy_bits_next_clear(const uint64_t *map, uint64_t first, uint64_t end)
{
    return next(map, first, end, ~0ull);
}
