// SPDX-License-Identifier: Apache-2.0
/* Decimal adjustments: AAA AAS AAM AAD DAA DAS. Not in 64-bit mode. */
#include "hv/cpu/soft/x_int.h"

X_INLINE void x_bcd_flags(struct soft_cpu *c, uint8_t al, bool cf, bool af)
{
    x_cc_res(c, 1, al, (cf ? SOFT_FL_C : 0) | (af ? SOFT_FL_A : 0));
}

X_INLINE soft_next x_ascii(struct soft_cpu *c, const struct soft_insn *in, bool add)
{
    uint16_t ax = (uint16_t)c->gpr[SOFT_RAX];
    bool adjust = (ax & 0xf) > 9 || soft_cc_af(&c->cc);
    if (adjust)
        ax = (uint16_t)(add ? ax + 0x106 : ax - 0x106);
    ax &= 0xff0f;
    x_set(c, 0, 2, ax);
    x_bcd_flags(c, (uint8_t)ax, adjust, adjust);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(aaa)
{
    return x_ascii(c, in, true);
}
SOFT_HANDLER(aas)
{
    return x_ascii(c, in, false);
}

SOFT_HANDLER(aam)
{
    uint8_t al = (uint8_t)c->gpr[SOFT_RAX], base = (uint8_t)in->imm;
    if (!base)
        return soft_raise(c, in, SOFT_DE);
    x_set(c, 0, 2, (uint64_t)(al / base) << 8 | al % base);
    x_bcd_flags(c, al % base, false, false);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(aad)
{
    uint16_t ax = (uint16_t)c->gpr[SOFT_RAX];
    uint8_t al = (uint8_t)((ax & 0xff) + (ax >> 8) * (uint8_t)in->imm);
    x_set(c, 0, 2, al);
    x_bcd_flags(c, al, false, false);
    SOFT_NEXT(c, in);
}

X_INLINE soft_next x_decimal(struct soft_cpu *c, const struct soft_insn *in, bool add)
{
    uint8_t old = (uint8_t)c->gpr[SOFT_RAX], al = old;
    bool cf = soft_cc_cf(&c->cc), af = (al & 0xf) > 9 || soft_cc_af(&c->cc), high = old > 0x99 || cf;
    bool out = high;
    if (af) {
        out = out || (!add && al < 6);
        al = (uint8_t)(add ? al + 6 : al - 6);
    }
    if (high)
        al = (uint8_t)(add ? al + 0x60 : al - 0x60);
    x_set(c, 0, 1, al);
    x_bcd_flags(c, al, out, af);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(daa)
{
    return x_decimal(c, in, true);
}
SOFT_HANDLER(das)
{
    return x_decimal(c, in, false);
}
