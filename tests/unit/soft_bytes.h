// SPDX-License-Identifier: Apache-2.0
/* Bytes for the decoder's tests: random ones, and encodings of the table's rows with some of the noise that
 * real code does not have. */
#ifndef FERRY_TESTS_SOFT_BYTES_H
#define FERRY_TESTS_SOFT_BYTES_H

#include <string.h>

#include "hv/cpu/soft/decode.h"
#include "hv/cpu/soft/decode_index.h"

struct sb_random {
    uint64_t s; /* not 0 */
};

static inline uint64_t sb_next(struct sb_random *r)
{
    r->s ^= r->s << 13;
    r->s ^= r->s >> 7;
    r->s ^= r->s << 17;
    return r->s * 0x2545f4914f6cdd1dull;
}

static inline bool sb_one_in(struct sb_random *r, unsigned n)
{
    return sb_next(r) % n == 0;
}

/* VEX prefix of a row, mostly valid; returns its length. */
static inline unsigned sb_vex(struct sb_random *r, const struct soft_row *row, enum soft_mode mode,
                              uint8_t *b)
{
    unsigned w = row->vex_w == 2 || sb_one_in(r, 8) ? sb_next(r) & 1 : row->vex_w;
    unsigned l = row->vex_l == 2 || sb_one_in(r, 8) ? sb_next(r) & 1 : row->vex_l;
    unsigned pp = row->prefix == 0x66 ? 1 : row->prefix == 0xf3 ? 2 : row->prefix == 0xf2 ? 3 : 0;
    bool used = soft_index_get()->forms[row - soft_rows].bits & SOFT_FORM_VVVV;
    unsigned v = used || sb_one_in(r, 8) ? sb_next(r) & 15 : 15;
    unsigned top = mode == SOFT_64 ? sb_next(r) & 7 : 6 | (sb_next(r) & 1);
    if (sb_one_in(r, 16))
        pp = sb_next(r) & 3;
    if (row->map == SOFT_V0F && !w && sb_one_in(r, 2)) {
        b[0] = 0xc5;
        b[1] = (uint8_t)((top >> 2) << 7 | (mode == SOFT_64 ? v : v | 8) << 3 | l << 2 | pp);
        return 2;
    }
    b[0] = 0xc4;
    b[1] = (uint8_t)(top << 5 | (row->map - SOFT_V0F + 1u));
    b[2] = (uint8_t)(w << 7 | v << 3 | l << 2 | pp);
    return 3;
}

/* Overwrite the start of b (at least 16 random bytes) with an encoding of the row. */
static inline void sb_encode(struct sb_random *r, const struct soft_row *row, enum soft_mode mode, uint8_t *b)
{
    static const uint8_t prefixes[] = {0x66, 0x67, 0xf2, 0xf3, 0xf0, 0x2e, 0x64, 0x36};
    unsigned n = 0, extra = (unsigned)(sb_next(r) % 8);
    bool vex = row->map >= SOFT_V0F;
    for (; extra > 4; extra--) {
        uint8_t p = prefixes[sb_next(r) % 8];
        bool spoils = p == 0xf0 || (vex && (p == 0x66 || p >= 0xf0));
        if (!spoils || sb_one_in(r, vex ? 16 : 4))
            b[n++] = p;
    }
    if (vex) {
        n += sb_vex(r, row, mode, b + n);
    } else {
        if (row->prefix > 2 && !sb_one_in(r, 8))
            b[n++] = row->prefix;
        unsigned w = row->vex_w == 2 || sb_one_in(r, 8) ? sb_next(r) & 1 : row->vex_w;
        if (mode == SOFT_64 && (row->vex_w == 1 || sb_one_in(r, 3)))
            b[n++] = (uint8_t)(0x40 | w << 3 | (sb_next(r) & 7));
        if (row->map >= SOFT_M0F)
            b[n++] = 0x0f;
        if (row->map >= SOFT_M0F38)
            b[n++] = row->map == SOFT_M0F38 ? 0x38 : 0x3a;
    }
    b[n++] = row->opcode;
    if (!soft_index_get()->lists[row->map][row->opcode].modrm)
        return;
    unsigned m = (unsigned)sb_next(r) & 0xff;
    if (row->mod == 1 && m >= 0xc0)
        m &= 0x7f;
    if (row->mod == 2)
        m |= 0xc0;
    if (row->ext >= 0)
        m = (m & 0xc7) | (unsigned)row->ext << 3;
    if (row->rm >= 0)
        m = (m & 0xf8) | (unsigned)row->rm;
    b[n] = (uint8_t)m;
}

/* 32 bytes: every second time random ones, else an encoding of a random row. */
static inline void sb_fill(struct sb_random *r, enum soft_mode mode, uint8_t b[32])
{
    for (unsigned i = 0; i < 32; i += 8) {
        uint64_t v = sb_next(r);
        memcpy(b + i, &v, 8);
    }
    if (sb_one_in(r, 2))
        sb_encode(r, &soft_rows[sb_next(r) % soft_row_count], mode, b);
}

#endif
