// SPDX-License-Identifier: Apache-2.0
/* MUL, IMUL, DIV, IDIV. */
#include "hv/cpu/soft/x_int.h"

typedef unsigned __int128 x_u128;
typedef __int128 x_s128;

/* Flags of a product: CF = OF = it did not fit; the others (SDM: undefined) keep their values, as on Zen 4.
 */
X_INLINE void x_mul_flags(struct soft_cpu *c, bool lost)
{
    soft_cc_put_co(&c->cc, lost, lost);
}

/* rDX:rAX (AX for bytes). */
X_INLINE void x_set_wide(struct soft_cpu *c, uint64_t low, uint64_t high, unsigned size)
{
    if (size == 1) {
        x_set(c, 0, 2, (low & 0xff) | (high & 0xff) << 8);
    } else {
        x_set(c, 8 * SOFT_RAX, size, low);
        x_set(c, 8 * SOFT_RDX, size, high);
    }
}

X_INLINE soft_next x_mul_any(struct soft_cpu *c, const struct soft_insn *in, bool sign, unsigned size)
{
    struct x_val b = x_rm(c, in, size);
    uint64_t a = x_reg(c, 0, size), low, high;
    bool lost;
    if (!b.ok)
        return soft_fault(c, in);
    if (sign) {
        x_s128 r = (x_s128)(int64_t)x_sx(a, size) * (int64_t)x_sx(b.v, size);
        low = x_zx((uint64_t)r, size);
        high = (uint64_t)(r >> (8 * size));
        lost = r != (int64_t)x_sx(low, size);
    } else {
        x_u128 r = (x_u128)a * b.v;
        low = x_zx((uint64_t)r, size);
        high = (uint64_t)(r >> (8 * size));
        lost = high != 0;
    }
    x_set_wide(c, low, high, size);
    x_mul_flags(c, lost);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(mul)
{
    X_BY_SIZE(c, in, x_mul_any, false);
}
SOFT_HANDLER(imul1)
{
    X_BY_SIZE(c, in, x_mul_any, true);
}

X_INLINE bool x_imul_lost(uint64_t a, uint64_t b, uint64_t *low, unsigned size)
{
    x_s128 r = (x_s128)(int64_t)x_sx(a, size) * (int64_t)x_sx(b, size);
    *low = x_zx((uint64_t)r, size);
    return r != (int64_t)x_sx((uint64_t)r, size);
}
X_INLINE soft_next x_imul_any(struct soft_cpu *c, const struct soft_insn *in, bool imm, unsigned size)
{
    struct x_val b = x_rm(c, in, size);
    uint64_t low;
    bool lost;
    if (!b.ok)
        return soft_fault(c, in);
    lost = x_imul_lost(b.v, imm ? in->imm : x_reg(c, in->reg_at, size), &low, size);
    x_set(c, in->reg_at, size, low);
    x_mul_flags(c, lost);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(imul2)
{
    X_BY_SIZE(c, in, x_imul_any, false);
}
SOFT_HANDLER(imul3)
{
    X_BY_SIZE(c, in, x_imul_any, true);
}

/* -- division: #DE where the divisor is 0 or the quotient does not fit. Flags stay (SDM: undefined). ------
 */

/* false: #DE. */
X_INLINE bool x_udiv(uint64_t high, uint64_t low, uint64_t d, unsigned size, uint64_t *q, uint64_t *r)
{
    if (high >= d) /* also d == 0 */
        return false;
    if (size == 8) {
        if (high == 0) {
            *q = low / d;
            *r = low % d;
        } else {
            x_u128 n = (x_u128)high << 64 | low;
            *q = (uint64_t)(n / d);
            *r = (uint64_t)(n % d);
        }
    } else {
        uint64_t n = high << (8 * size) | low;
        *q = n / d;
        *r = n % d;
    }
    return true;
}
X_INLINE bool x_sdiv(uint64_t high, uint64_t low, uint64_t d, unsigned size, uint64_t *q, uint64_t *r)
{
    x_s128 n = size == 8 ? (x_s128)((x_u128)high << 64 | low)
                         : (x_s128)(int64_t)x_sx(high, size) * ((int64_t)1 << (8 * size & 63)) + (int64_t)low;
    bool minus = n < 0, dminus = (int64_t)x_sx(d, size) < 0;
    x_u128 un = minus ? 0 - (x_u128)n : (x_u128)n;
    uint64_t ud = dminus ? 0 - x_sx(d, size) : x_sx(d, size), uq, ur;
    uint64_t most = ((uint64_t)1 << (8 * size - 1)) - !(minus != dminus);
    if (ud == 0 || un / ud > most)
        return false;
    uq = (uint64_t)(un / ud);
    ur = (uint64_t)(un % ud);
    *q = minus != dminus ? 0 - uq : uq;
    *r = minus ? 0 - ur : ur;
    return true;
}

X_INLINE soft_next x_div_any(struct soft_cpu *c, const struct soft_insn *in, bool sign, unsigned size)
{
    struct x_val d = x_rm(c, in, size);
    uint64_t low = x_reg(c, 0, size), high, q = 0, r = 0;
    if (!d.ok)
        return soft_fault(c, in);
    high = size == 1 ? x_reg(c, 1, 1) : x_reg(c, 8 * SOFT_RDX, size);
    if (!(sign ? x_sdiv(high, low, d.v, size, &q, &r) : x_udiv(high, low, d.v, size, &q, &r)))
        return soft_raise(c, in, SOFT_DE);
    x_set_wide(c, q, r, size);
    /* SDM: undefined; so on Zen 4. */
    x_cc_merge(c, SOFT_FL_P | SOFT_FL_A | SOFT_FL_Z | SOFT_FL_S, SOFT_FL_A);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(div)
{
    X_BY_SIZE(c, in, x_div_any, false);
}
SOFT_HANDLER(idiv)
{
    X_BY_SIZE(c, in, x_div_any, true);
}

/* -- fast: IMUL of registers, 32 and 64 bits ------------------------------------------------------------- */

X_INLINE soft_next x_imul_fast_one(struct soft_cpu *c, const struct soft_insn *in, bool imm, bool nf,
                                   unsigned size)
{
    uint64_t a = x_reg(c, in->rm_at, size), b = imm ? in->imm : x_reg(c, in->reg_at, size), low;
    if (nf) {
        x_set(c, in->reg_at, size, a * b);
    } else {
        bool lost = x_imul_lost(a, b, &low, size);
        x_set(c, in->reg_at, size, low);
        x_mul_flags(c, lost);
    }
    SOFT_NEXT(c, in);
}
#define IMUL(imm, nf, size)                                                                                  \
    static soft_next f_imul_##imm##_##nf##_##size(struct soft_cpu *c, const struct soft_insn *in)            \
    {                                                                                                        \
        return x_imul_fast_one(c, in, imm, nf, size);                                                        \
    }
IMUL(0, 0, 4)
IMUL(0, 0, 8)
IMUL(0, 1, 4)
IMUL(0, 1, 8)
IMUL(1, 0, 4)
IMUL(1, 0, 8)
IMUL(1, 1, 4)
IMUL(1, 1, 8)

soft_fn x_mul_fast(const struct soft_insn *in, soft_fn general)
{
    static const soft_fn fn[2][2][2] = {{{f_imul_0_0_4, f_imul_0_0_8}, {f_imul_0_1_4, f_imul_0_1_8}},
                                        {{f_imul_1_0_4, f_imul_1_0_8}, {f_imul_1_1_4, f_imul_1_1_8}}};
    if ((in->flags & SOFT_I_MEM) || in->size < 4)
        return NULL;
    if (general == soft_x_imul2 || general == soft_x_imul3)
        return fn[general == soft_x_imul3][(in->flags & SOFT_I_NF) != 0][in->size == 8];
    return NULL;
}
