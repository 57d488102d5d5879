// SPDX-License-Identifier: Apache-2.0
/* Streams and the states that they start from. */
#include <string.h>

#include "tests/soft/diff.h"

uint64_t diff_special(struct diff_rng *r)
{
    static const uint64_t list[] = {0,
                                    1,
                                    2,
                                    0x7f,
                                    0x80,
                                    0xff,
                                    0x7fff,
                                    0x8000,
                                    0xffff,
                                    0x7fffffff,
                                    0x80000000,
                                    0xffffffff,
                                    0x100000000,
                                    0x7fffffffffffffff,
                                    0x8000000000000000,
                                    0xffffffffffffffff,
                                    0xffffffff80000000,
                                    0x5555555555555555,
                                    0xaaaaaaaaaaaaaaaa};
    uint64_t v = diff_rnd(r);
    switch (diff_below(r, 4)) {
    case 0:
        return list[diff_below(r, sizeof list / sizeof *list)];
    case 1:
        return v >> (v & 63);
    case 2:
        return list[diff_below(r, sizeof list / sizeof *list)] + (v & 7) - 3;
    default:
        return v;
    }
}

static uint32_t special_float(struct diff_rng *r)
{
    static const uint32_t list[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                                    0x7fc00000, 0xffc00000, 0x7f800001, 0x7fbfffff, 0x00000001, 0x807fffff,
                                    0x00800000, 0x7f7fffff, 0xff7fffff, 0x4f000000, 0xcf000000, 0x4b000000,
                                    0x3f000000, 0x34000000, 0x5f000000, 0x40490fdb, 0x3effffff, 0x3fc00000};
    uint32_t v = (uint32_t)diff_rnd(r);
    if (diff_chance(r, 50))
        return list[diff_below(r, sizeof list / sizeof *list)];
    return diff_chance(r, 70) ? (v & 0x807fffff) | (120 + diff_below(r, 16)) << 23 : v;
}

static uint64_t special_double(struct diff_rng *r)
{
    static const uint64_t list[] = {0,
                                    0x8000000000000000,
                                    0x3ff0000000000000,
                                    0xbff0000000000000,
                                    0x7ff0000000000000,
                                    0xfff0000000000000,
                                    0x7ff8000000000000,
                                    0xfff8000000000000,
                                    0x7ff0000000000001,
                                    0x7ff7ffffffffffff,
                                    0x0000000000000001,
                                    0x800fffffffffffff,
                                    0x0010000000000000,
                                    0x7fefffffffffffff,
                                    0x41e0000000000000,
                                    0xc1e0000000000000,
                                    0x43e0000000000000,
                                    0x3fe0000000000000,
                                    0x4330000000000000,
                                    0x400921fb54442d18,
                                    0x47efffffe0000000,
                                    0x3810000000000000,
                                    0x36a0000000000000};
    uint64_t v = diff_rnd(r);
    if (diff_chance(r, 50))
        return list[diff_below(r, sizeof list / sizeof *list)];
    return diff_chance(r, 70) ? (v & 0x800fffffffffffff) | (uint64_t)(1010 + diff_below(r, 28)) << 52 : v;
}

static uint64_t lane(struct diff_rng *r)
{
    switch (diff_below(r, 4)) {
    case 0:
        return special_float(r) | (uint64_t)special_float(r) << 32;
    case 1:
        return special_double(r);
    case 2:
        return diff_special(r);
    default:
        return diff_rnd(r);
    }
}

static void fill_st(struct diff_rng *r, uint8_t *st)
{
    uint64_t m = diff_rnd(r) | 0x8000000000000000u;
    uint16_t e = (uint16_t)(0x3ff0 + diff_below(r, 32));
    switch (diff_below(r, 8)) {
    case 0:
        m = 0;
        e = 0;
        break;
    case 1:
        m = 0x8000000000000000u;
        e = 0x7fff;
        break;
    case 2:
        m |= 0x4000000000000000u;
        e = 0x7fff;
        break;
    case 3:
        m = 0x8000000000000000u;
        e = 0x3fff;
        break;
    case 4:
        e = (uint16_t)(diff_rnd(r) & 0x7fff);
        break;
    case 5:
        m &= diff_rnd(r);
        e = (uint16_t)(diff_below(r, 3) ? diff_below(r, 2) : diff_rnd(r) & 0x7fff);
        break;
    default:
        break;
    }
    e |= (uint16_t)(diff_below(r, 2) << 15);
    memcpy(st, &m, 8);
    memcpy(st + 8, &e, 2);
}

static void fill_fpu(struct diff_rng *r, uint8_t *x)
{
    uint16_t fcw = 0x37f, fsw = 0;
    uint32_t mxcsr = 0x1f80;
    uint64_t v, have = 7;
    memset(x, 0, DIFF_XSAVE);
    if (diff_chance(r, 30))
        fcw = (uint16_t)(0x7f | diff_below(r, 4) << 10 | (uint32_t[]){0, 2, 3}[diff_below(r, 3)] << 8);
    if (diff_chance(r, 5))
        fcw &= (uint16_t) ~(1u << diff_below(r, 6));
    if (diff_chance(r, 3))
        fcw &= (uint16_t)(diff_rnd(r) | ~0x3fu);
    if (diff_chance(r, 70))
        fsw = (uint16_t)(diff_below(r, 8) << 11);
    if (diff_chance(r, 30))
        mxcsr = 0x1f80 | diff_below(r, 4) << 13 | (uint32_t)diff_below(r, 2) << 15 |
                (uint32_t)diff_below(r, 2) << 6;
    if (diff_chance(r, 7))
        mxcsr &= ~(0x80u << diff_below(r, 6));
    if (diff_chance(r, 4))
        mxcsr &= (uint32_t)diff_rnd(r) << 7 | ~0x1f80u;
    memcpy(x, &fcw, 2);
    memcpy(x + 2, &fsw, 2);
    x[4] = (uint8_t)(diff_chance(r, 40) ? 0 : diff_chance(r, 50) ? 0xff : diff_rnd(r));
    memcpy(x + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        fill_st(r, x + 32 + 16 * i);
    for (unsigned i = 0; i < 16; i++)
        for (unsigned k = 0; k < 4; k++) {
            v = i >= 13 ? diff_below(r, 32) | (uint64_t)diff_below(r, 32) << 32 : lane(r);
            memcpy(x + (k < 2 ? 160 : 576 - 16) + 16 * i + 8 * k, &v, 8);
        }
    memcpy(x + 512, &have, 8);
}

void diff_fill_state(struct diff_rng *r, struct diff_slot *slot)
{
    struct diff_state *s = &slot->in;
    for (unsigned i = 0; i < 16; i++)
        s->gpr[i] = diff_chance(r, 25) ? DIFF_DATA + diff_below(r, DIFF_DATA_BYTES) : diff_special(r);
    s->gpr[4] = DIFF_DATA + 0x1000 + diff_below(r, 64) * 8 - (diff_chance(r, 10) ? diff_below(r, 8) : 0);
    for (unsigned i = 0; diff_32 && i < 8; i++)
        s->gpr[i] = (uint32_t)s->gpr[i];
    s->rflags = 0x202 | (diff_rnd(r) & 0x8d5) | (diff_chance(r, 30) ? 0x400 : 0);
    fill_fpu(r, s->xsave);
    for (unsigned i = 0; i < DIFF_DATA_BYTES; i += 8) {
        uint64_t v = (i & 0x18) ? diff_rnd(r) : lane(r);
        memcpy(slot->mem_in + i, &v, 8);
    }
}

void diff_generate(struct diff_rng *r, unsigned count, struct diff_stream *s, struct diff_slot *slot)
{
    static uint16_t rows[4096];
    static unsigned n;
    if (!n)
        for (unsigned i = 0; i < soft_row_count; i++)
            if (!diff_rows[i].skip)
                rows[n++] = (uint16_t)i;
    s->n = 0;
    s->undefined = 0;
    diff_fill_state(r, slot);
    for (unsigned i = 0; i < count; i++)
        diff_emit_row(r, s, rows[diff_below(r, n)]);
}

/* Branches do not go between an instruction and what prepares it. */
static unsigned branch_target(const struct diff_stream *s, unsigned n, uint64_t target)
{
    while (target < n && target && s->insn[target - 1].row == UINT16_MAX)
        target++;
    return target < n ? (unsigned)target : n;
}

unsigned diff_layout(struct diff_stream *s, unsigned n, uint64_t at, uint8_t *to)
{
    uint64_t pos = at, exit_at = DIFF_EXIT;
    for (unsigned i = 0; i < n; i++) {
        s->start[i] = pos;
        pos += s->insn[i].len;
    }
    s->start[n] = pos;
    for (unsigned i = 0; i < n; i++) {
        struct diff_insn *in = &s->insn[i];
        uint64_t next = s->start[i] + in->len, target;
        uint8_t *p = to + (s->start[i] - at);
        memcpy(p, in->b, in->len);
        target = in->fix == FIX_RIP ? in->target : s->start[branch_target(s, n, in->target)];
        if (in->fix == FIX_CODE64) {
            memcpy(p + in->fix_at, &target, 8);
        } else if (in->fix == FIX_CODE32) {
            memcpy(p + in->fix_at, &target, 4);
        } else if (in->fix == FIX_REL8) {
            p[in->fix_at] = (uint8_t)(target - next);
        } else if (in->fix) {
            uint32_t d = (uint32_t)(target - next);
            memcpy(p + in->fix_at, &d, 4);
        }
    }
    if (diff_32) { /* UD2: there is no way out that both sides could take */
        memcpy(to + (pos - at), "\x0f\x0b", 2);
        return (unsigned)(pos - at) + 2;
    }
    memcpy(to + (pos - at), "\xff\x25\0\0\0\0", 6);
    memcpy(to + (pos - at) + 6, &exit_at, 8);
    return (unsigned)(pos - at) + 14;
}
