// SPDX-License-Identifier: Apache-2.0
/* BT BTS BTR BTC, BSF BSR, POPCNT LZCNT TZCNT. Flags that the SDM leaves undefined are as on AMD's Zen 4. */
#include "hv/cpu/soft/x_int.h"

enum x_bitop { X_BT, X_BTS, X_BTR, X_BTC };

X_INLINE uint64_t x_bit_apply(enum x_bitop op, uint64_t v, uint64_t mask)
{
    return op == X_BTS ? v | mask : op == X_BTR ? v & ~mask : op == X_BTC ? v ^ mask : v;
}

/* A bit number in a register addresses memory beyond the operand: by whole operands, signed. */
X_INLINE struct x_val x_bit_address(struct soft_cpu *c, const struct soft_insn *in, uint64_t index,
                                    unsigned size, enum soft_access how)
{
    uint64_t off = soft_ea_offset(c, in);
    off += (uint64_t)((int64_t)x_sx(index, size) >> (size == 8 ? 6 : size == 4 ? 5 : 4)) * size;
    off = in->asize == 8 ? off : in->asize == 4 ? (uint32_t)off : (uint16_t)off;
    struct x_val at = in->ea ? x_linear(c, in->seg, off, size, how) : (struct x_val){off, true};
    return x_canonical(c, at, in->seg);
}

X_INLINE void x_bit_cf(struct soft_cpu *c, bool cf)
{
    soft_cc_put_c(&c->cc, cf);
}

X_INLINE soft_next x_bit_mem(struct soft_cpu *c, const struct soft_insn *in, enum x_bitop op, uint64_t index,
                             bool imm, unsigned size)
{
    enum soft_access how = op == X_BT ? SOFT_READ : SOFT_WRITE;
    uint64_t mask = (uint64_t)1 << (index & (8 * size - 1)), old;
    struct x_val at = imm ? x_ea(c, in, size, how) : x_bit_address(c, in, index, size, how);
    if (!at.ok)
        return soft_fault(c, in);
    if (op == X_BT) {
        struct x_val v = x_ld(c, at.v, size);
        if (!v.ok)
            return soft_fault(c, in);
        old = v.v;
    } else if (in->flags & SOFT_I_LOCK) {
        struct x_lock l = x_lock_begin(c, at.v, size);
        if (!l.p)
            return soft_fault(c, in);
        old = x_get(l.p, size);
        if (l.direct)
            while (!x_cas(l.p, size, &old, x_bit_apply(op, old, mask)))
                ;
        else
            x_put(l.p, size, x_bit_apply(op, old, mask));
        x_lock_end(c, l);
    } else {
        void *p = soft_rmw_begin(c, at.v, size);
        if (!p)
            return soft_fault(c, in);
        old = x_get(p, size);
        x_put(p, size, x_bit_apply(op, old, mask));
        soft_rmw_end(c, p);
    }
    x_bit_cf(c, (old & mask) != 0);
    SOFT_NEXT(c, in);
}

/* 0F BA has the bit number as an immediate, the others in a register. */
X_INLINE soft_next x_bit_any(struct soft_cpu *c, const struct soft_insn *in, enum x_bitop op, unsigned size)
{
    bool imm = in->opcode == 0xba;
    uint64_t index = imm ? in->imm : x_reg(c, in->reg_at, size), v, mask;
    if (in->flags & SOFT_I_MEM)
        return x_bit_mem(c, in, op, index, imm, size);
    mask = (uint64_t)1 << (index & (8 * size - 1));
    v = x_reg(c, in->rm_at, size);
    if (op != X_BT)
        x_set(c, in->rm_at, size, x_bit_apply(op, v, mask));
    x_bit_cf(c, (v & mask) != 0);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(bt)
{
    X_BY_SIZE(c, in, x_bit_any, X_BT);
}
SOFT_HANDLER(bts)
{
    X_BY_SIZE(c, in, x_bit_any, X_BTS);
}
SOFT_HANDLER(btr)
{
    X_BY_SIZE(c, in, x_bit_any, X_BTR);
}
SOFT_HANDLER(btc)
{
    X_BY_SIZE(c, in, x_bit_any, X_BTC);
}

/* -- counting -------------------------------------------------------------------------------------------- */

X_INLINE unsigned x_ctz(uint64_t v, unsigned size)
{
    return v ? (unsigned)__builtin_ctzll(v) : 8 * size;
}
X_INLINE unsigned x_clz(uint64_t v, unsigned size)
{
    return v ? (unsigned)__builtin_clzll(v) - (64 - 8 * size) : 8 * size;
}

/* A source of 0 leaves the destination alone, even its upper half (as all processors do). */
X_INLINE soft_next x_scan(struct soft_cpu *c, const struct soft_insn *in, bool reverse, unsigned size)
{
    struct x_val v = x_rm(c, in, size);
    uint32_t f = 0;
    if (!v.ok)
        return soft_fault(c, in);
    if (v.v) {
        unsigned n = reverse ? (unsigned)(63 - __builtin_clzll(v.v)) : x_ctz(v.v, size);
        x_set(c, in->reg_at, size, n);
        f = __builtin_parity(n) ? 0 : SOFT_FL_P;
    } else {
        f = SOFT_FL_Z | SOFT_FL_P;
    }
    soft_cc_set(&c->cc, f);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(bsf)
{
    X_BY_SIZE(c, in, x_scan, false);
}
SOFT_HANDLER(bsr)
{
    X_BY_SIZE(c, in, x_scan, true);
}

X_INLINE soft_next x_count_zeros(struct soft_cpu *c, const struct soft_insn *in, bool leading, unsigned size)
{
    struct x_val v = x_rm(c, in, size);
    unsigned n;
    if (!v.ok)
        return soft_fault(c, in);
    n = leading ? x_clz(v.v, size) : x_ctz(v.v, size);
    x_set(c, in->reg_at, size, n);
    x_cc_merge(c, SOFT_FL_ALL & ~SOFT_FL_O, (n == 8 * size ? SOFT_FL_C : 0) | (n == 0 ? SOFT_FL_Z : 0));
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(tzcnt)
{
    X_BY_SIZE(c, in, x_count_zeros, false);
}
SOFT_HANDLER(lzcnt)
{
    X_BY_SIZE(c, in, x_count_zeros, true);
}

X_INLINE soft_next x_popcnt(struct soft_cpu *c, const struct soft_insn *in, int unused, unsigned size)
{
    struct x_val v = x_rm(c, in, size);
    (void)unused;
    if (!v.ok)
        return soft_fault(c, in);
    x_set(c, in->reg_at, size, (uint64_t)__builtin_popcountll(v.v));
    soft_cc_set(&c->cc, v.v ? 0 : SOFT_FL_Z);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(popcnt)
{
    X_BY_SIZE(c, in, x_popcnt, 0);
}
