// SPDX-License-Identifier: Apache-2.0
/* Shifts and rotates. A count of 0 (after masking) leaves flags alone; OF for counts above 1 and AF follow
 * what current processors do (SDM: undefined). */
#include "hv/cpu/soft/x_int.h"

enum x_shift { X_ROL, X_ROR, X_RCL, X_RCR, X_SHL, X_SHR, X_SAR };

struct x_shifted {
    uint64_t v;
    uint32_t cao; /* CF, OF as EFLAGS bits */
};

X_INLINE uint32_t x_co(bool cf, bool of)
{
    return (cf ? SOFT_FL_C : 0) | (of ? SOFT_FL_O : 0);
}
X_INLINE bool x_bit(uint64_t v, unsigned n)
{
    return v >> (n & 63) & 1;
}

/* Rotate through carry, `n` already below bits + 1 and not 0. */
X_INLINE struct x_shifted x_rotate_carry(bool left, uint64_t a, unsigned n, unsigned bits, bool carry)
{
    unsigned __int128 w = (unsigned __int128)carry << bits | a;
    unsigned __int128 r = left ? w << n | w >> (bits + 1 - n) : w >> n | w << (bits + 1 - n);
    bool cf = r >> bits & 1;
    uint64_t v = x_zx((uint64_t)r, bits / 8);
    bool top = x_bit(v, bits - 1);
    return (struct x_shifted){v, x_co(cf, left ? top != cf : top != x_bit(v, bits - 2))};
}

/* `n`: masked, not 0; `a`: zero-extended. */
X_INLINE struct x_shifted x_shift_calc(enum x_shift op, uint64_t a, unsigned n, unsigned size, bool carry)
{
    unsigned bits = 8 * size, r;
    uint64_t v;
    bool cf;
    switch (op) {
    case X_ROL:
        r = n & (bits - 1);
        v = x_zx(a << r | a >> ((bits - r) & (bits - 1)), size);
        return (struct x_shifted){v, x_co(v & 1, (v & 1) != x_bit(v, bits - 1))};
    case X_ROR:
        r = n & (bits - 1);
        v = x_zx(a >> r | a << ((bits - r) & (bits - 1)), size);
        return (struct x_shifted){v, x_co(x_bit(v, bits - 1), x_bit(v, bits - 1) != x_bit(v, bits - 2))};
    case X_RCL:
    case X_RCR:
        return x_rotate_carry(op == X_RCL, a, n, bits, carry);
    case X_SHL:
        cf = n <= bits && x_bit(a, bits - n);
        v = n < bits ? x_zx(a << n, size) : 0;
        return (struct x_shifted){v, x_co(cf, x_bit(v, bits - 1) != cf)};
    case X_SHR:
        cf = n <= bits && x_bit(a, n - 1);
        v = n < bits ? a >> n : 0;
        return (struct x_shifted){v, x_co(cf, x_bit(v, bits - 2))};
    default:
        r = n < bits ? n : bits - 1;
        cf = x_bit(x_sx(a, size), n - 1);
        v = x_zx((uint64_t)((int64_t)x_sx(a, size) >> r), size);
        return (struct x_shifted){v, x_co(cf, false)};
    }
}

X_INLINE void x_shift_flags(struct soft_cpu *c, enum x_shift op, struct x_shifted s, unsigned size)
{
    if (op >= X_SHL)
        x_cc_res(c, size, s.v, s.cao | SOFT_FL_A);
    else
        soft_cc_put_co(&c->cc, s.cao & SOFT_FL_C, s.cao & SOFT_FL_O);
}

/* The count as the operation sees it; 0: nothing happens to the flags. */
X_INLINE unsigned x_shift_count(enum x_shift op, uint64_t n, unsigned size)
{
    unsigned m = (unsigned)n & (size == 8 ? 63 : 31);
    return op == X_RCL || op == X_RCR ? m % (8 * size + 1) : m;
}

X_INLINE soft_next x_shift_any(struct soft_cpu *c, const struct soft_insn *in, enum x_shift op, bool cl,
                               unsigned size)
{
    unsigned n = x_shift_count(op, cl ? c->gpr[SOFT_RCX] : in->imm, size);
    bool carry = (op == X_RCL || op == X_RCR) && soft_cc_cf(&c->cc);
    struct x_shifted s;
    if (in->flags & SOFT_I_MEM) {
        struct x_val at = x_ea(c, in, size, SOFT_WRITE);
        void *p = at.ok ? soft_rmw_begin(c, at.v, size) : NULL;
        if (!p)
            return soft_fault(c, in);
        s.v = x_get(p, size);
        if (n)
            s = x_shift_calc(op, s.v, n, size, carry);
        x_put(p, size, s.v);
        soft_rmw_end(c, p);
    } else {
        s.v = x_reg(c, in->rm_at, size);
        if (n)
            s = x_shift_calc(op, s.v, n, size, carry);
        x_set(c, in->rm_at, size, s.v);
    }
    if (n)
        x_shift_flags(c, op, s, size);
    SOFT_NEXT(c, in);
}

#define SHIFT(name, OP)                                                                                      \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        X_BY_SIZE(c, in, x_shift_any, OP, false);                                                            \
    }                                                                                                        \
    SOFT_HANDLER(name##_cl)                                                                                  \
    {                                                                                                        \
        X_BY_SIZE(c, in, x_shift_any, OP, true);                                                             \
    }
SHIFT(rol, X_ROL)
SHIFT(ror, X_ROR)
SHIFT(rcl, X_RCL)
SHIFT(rcr, X_RCR)
SHIFT(shl, X_SHL)
SHIFT(shr, X_SHR)
SHIFT(sar, X_SAR)

/* -- SHLD, SHRD ------------------------------------------------------------------------------------------ */

/* 16-bit operands with counts above 16 (SDM: the result is undefined): the source comes in again, as on
 * Zen 4. */
X_INLINE struct x_shifted x_double(bool left, uint64_t a, uint64_t b, unsigned n, unsigned size)
{
    unsigned bits = 8 * size;
    uint64_t v;
    bool cf;
    if (size == 2) {
        uint64_t w = left ? a << 32 | b << 16 | b : b << 32 | b << 16 | a;
        v = x_zx(left ? w << n >> 32 : w >> n, 2);
        cf = n <= 16 && (left ? x_bit(a, 16 - n) : x_bit(a, n - 1));
    } else {
        v = x_zx(left ? a << n | b >> (bits - n) : a >> n | b << (bits - n), size);
        cf = left ? x_bit(a, bits - n) : x_bit(a, n - 1);
    }
    return (struct x_shifted){v, x_co(cf, x_bit(v, bits - 1) != (left ? cf : x_bit(v, bits - 2)))};
}

X_INLINE soft_next x_double_any(struct soft_cpu *c, const struct soft_insn *in, bool left, bool cl,
                                unsigned size)
{
    unsigned n = (unsigned)(cl ? c->gpr[SOFT_RCX] : in->imm) & (size == 8 ? 63 : 31);
    uint64_t b = x_reg(c, in->reg_at, size);
    struct x_shifted s;
    if (in->flags & SOFT_I_MEM) {
        struct x_val at = x_ea(c, in, size, SOFT_WRITE);
        void *p = at.ok ? soft_rmw_begin(c, at.v, size) : NULL;
        if (!p)
            return soft_fault(c, in);
        s.v = x_get(p, size);
        if (n)
            s = x_double(left, s.v, b, n, size);
        x_put(p, size, s.v);
        soft_rmw_end(c, p);
    } else {
        s.v = x_reg(c, in->rm_at, size);
        if (n)
            s = x_double(left, s.v, b, n, size);
        x_set(c, in->rm_at, size, s.v);
    }
    if (n)
        x_cc_res(c, size, s.v, s.cao | SOFT_FL_A);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(shld)
{
    X_BY_SIZE(c, in, x_double_any, true, false);
}
SOFT_HANDLER(shld_cl)
{
    X_BY_SIZE(c, in, x_double_any, true, true);
}
SOFT_HANDLER(shrd)
{
    X_BY_SIZE(c, in, x_double_any, false, false);
}
SOFT_HANDLER(shrd_cl)
{
    X_BY_SIZE(c, in, x_double_any, false, true);
}

/* -- fast: registers, 32 and 64 bits, immediate count not 0 ---------------------------------------------- */

X_INLINE soft_next x_shift_fast_one(struct soft_cpu *c, const struct soft_insn *in, enum x_shift op,
                                    unsigned size, bool nf)
{
    unsigned n = (unsigned)in->imm & (8 * size - 1);
    struct x_shifted s = x_shift_calc(op, x_reg(c, in->rm_at, size), n, size, false);
    x_set(c, in->rm_at, size, s.v);
    if (!nf)
        x_shift_flags(c, op, s, size);
    SOFT_NEXT(c, in);
}
/* By CL with flags unread: any count. */
X_INLINE soft_next x_shift_cl_nf(struct soft_cpu *c, const struct soft_insn *in, enum x_shift op,
                                 unsigned size)
{
    unsigned n = (unsigned)c->gpr[SOFT_RCX] & (8 * size - 1);
    uint64_t a = x_reg(c, in->rm_at, size);
    x_set(c, in->rm_at, size, n ? x_shift_calc(op, a, n, size, false).v : a);
    SOFT_NEXT(c, in);
}
#define FAST(name, OP, size)                                                                                 \
    static soft_next f_##name##_##size##_0(struct soft_cpu *c, const struct soft_insn *in)                   \
    {                                                                                                        \
        return x_shift_fast_one(c, in, OP, size, false);                                                     \
    }                                                                                                        \
    static soft_next f_##name##_##size##_1(struct soft_cpu *c, const struct soft_insn *in)                   \
    {                                                                                                        \
        return x_shift_fast_one(c, in, OP, size, true);                                                      \
    }                                                                                                        \
    static soft_next f_##name##_##size##_cl(struct soft_cpu *c, const struct soft_insn *in)                  \
    {                                                                                                        \
        return x_shift_cl_nf(c, in, OP, size);                                                               \
    }
#define FASTS(name, OP) FAST(name, OP, 4) FAST(name, OP, 8)
FASTS(rol, X_ROL)
FASTS(ror, X_ROR)
FASTS(shl, X_SHL)
FASTS(shr, X_SHR)
FASTS(sar, X_SAR)

#define T(name)                                                                                              \
    {                                                                                                        \
        soft_x_##name, soft_x_##name##_cl,                                                                   \
            {{f_##name##_4_0, f_##name##_4_1}, {f_##name##_8_0, f_##name##_8_1}},                            \
        {                                                                                                    \
            f_##name##_4_cl, f_##name##_8_cl                                                                 \
        }                                                                                                    \
    }
static const struct {
    soft_fn general, general_cl, fn[2][2], cl[2];
} fast[] = {T(rol), T(ror), T(shl), T(shr), T(sar)};

soft_fn x_shift_fast(const struct soft_insn *in, soft_fn general)
{
    bool wide = in->size == 8, nf = in->flags & SOFT_I_NF;
    if ((in->flags & SOFT_I_MEM) || in->size < 4)
        return NULL;
    for (unsigned i = 0; i < sizeof fast / sizeof fast[0]; i++) {
        if (general == fast[i].general && (in->imm & (wide ? 63 : 31)))
            return fast[i].fn[wide][nf];
        if (general == fast[i].general_cl && nf)
            return fast[i].cl[wide];
    }
    return NULL;
}
