// SPDX-License-Identifier: Apache-2.0
/* XCHG, XADD, CMPXCHG, CMPXCHG8B, CMPXCHG16B, with and without LOCK. XCHG with memory is always locked.
 * CMPXCHG writes its destination even where it fails, so it faults as a write does. */
#include "hv/cpu/soft/x_int.h"

/* 90..97 exchange with rAX; the other forms with ModRM. */
X_INLINE soft_next x_xchg_any(struct soft_cpu *c, const struct soft_insn *in, int unused, unsigned size)
{
    unsigned at = in->opcode >= 0x90 ? 0 : in->rm_at;
    uint64_t a = x_reg(c, in->reg_at, size), b;
    struct x_val lin;
    struct x_lock l;
    (void)unused;
    if (!(in->flags & SOFT_I_MEM)) {
        b = x_reg(c, at, size);
        x_set(c, at, size, a);
        x_set(c, in->reg_at, size, b);
        SOFT_NEXT(c, in);
    }
    lin = x_ea(c, in, size, SOFT_WRITE);
    if (!lin.ok)
        return soft_fault(c, in);
    l = x_lock_begin(c, lin.v, size);
    if (!l.p)
        return soft_fault(c, in);
    b = x_get(l.p, size);
    if (l.direct)
        while (!x_cas(l.p, size, &b, a))
            ;
    else
        x_put(l.p, size, a);
    x_lock_end(c, l);
    x_set(c, in->reg_at, size, b);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(xchg)
{
    X_BY_SIZE(c, in, x_xchg_any, 0);
}

/* A destination in memory, by either way. */
struct x_dest {
    struct x_lock l;
    bool locked;
};
X_INLINE struct x_dest x_dest_begin(struct soft_cpu *c, const struct soft_insn *in, unsigned size)
{
    struct x_dest d = {{NULL, false, false}, (in->flags & SOFT_I_LOCK) != 0};
    struct x_val at = x_ea(c, in, size, SOFT_WRITE);
    if (at.ok && d.locked)
        d.l = x_lock_begin(c, at.v, size);
    else if (at.ok)
        d.l.p = soft_rmw_begin(c, at.v, size);
    return d;
}
X_INLINE void x_dest_end(struct soft_cpu *c, struct x_dest d)
{
    if (d.locked)
        x_lock_end(c, d.l);
    else
        soft_rmw_end(c, d.l.p);
}

X_INLINE soft_next x_xadd_any(struct soft_cpu *c, const struct soft_insn *in, int unused, unsigned size)
{
    uint64_t a, b = x_reg(c, in->reg_at, size);
    (void)unused;
    if (in->flags & SOFT_I_MEM) {
        struct x_dest d = x_dest_begin(c, in, size);
        if (!d.l.p)
            return soft_fault(c, in);
        a = x_get(d.l.p, size);
        if (d.l.direct)
            while (!x_cas(d.l.p, size, &a, a + b))
                ;
        else
            x_put(d.l.p, size, a + b);
        x_dest_end(c, d);
        x_set(c, in->reg_at, size, a);
    } else {
        a = x_reg(c, in->rm_at, size);
        x_set(c, in->reg_at, size, a); /* first: both may be one register, which gets the sum */
        x_set(c, in->rm_at, size, a + b);
    }
    x_cc_add(c, size, a + b, b);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(xadd)
{
    X_BY_SIZE(c, in, x_xadd_any, 0);
}

X_INLINE soft_next x_cmpxchg_any(struct soft_cpu *c, const struct soft_insn *in, int unused, unsigned size)
{
    uint64_t want = x_reg(c, 0, size), b = x_reg(c, in->reg_at, size), a;
    (void)unused;
    if (in->flags & SOFT_I_MEM) {
        struct x_dest d = x_dest_begin(c, in, size);
        if (!d.l.p)
            return soft_fault(c, in);
        a = want;
        if (d.l.direct) {
            x_cas(d.l.p, size, &a, b);
        } else {
            a = x_get(d.l.p, size);
            x_put(d.l.p, size, a == want ? b : a);
        }
        x_dest_end(c, d);
        if (a != want)
            x_set(c, 0, size, a);
    } else {
        a = x_reg(c, in->rm_at, size);
        if (a == want)
            x_set(c, in->rm_at, size, b);
        else
            x_set(c, 0, size, a);
    }
    x_cc_sub(c, size, want, a);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(cmpxchg)
{
    X_BY_SIZE(c, in, x_cmpxchg_any, 0);
}

/* rDX:rAX and rCX:rBX of 4 bytes each. */
SOFT_HANDLER(cmpxchg8b)
{
    uint64_t want = (uint32_t)c->gpr[SOFT_RAX] | c->gpr[SOFT_RDX] << 32, a = want;
    uint64_t b = (uint32_t)c->gpr[SOFT_RBX] | c->gpr[SOFT_RCX] << 32;
    struct x_dest d = x_dest_begin(c, in, 8);
    if (!d.l.p)
        return soft_fault(c, in);
    if (d.l.direct) {
        x_cas(d.l.p, 8, &a, b);
    } else {
        a = x_get(d.l.p, 8);
        x_put(d.l.p, 8, a == want ? b : a);
    }
    x_dest_end(c, d);
    if (a != want) {
        x_set(c, 8 * SOFT_RAX, 4, a);
        x_set(c, 8 * SOFT_RDX, 4, a >> 32);
    }
    x_cc_merge(c, SOFT_FL_Z, a == want ? SOFT_FL_Z : 0);
    SOFT_NEXT(c, in);
}

/* On 16 aligned bytes; low and high become what was there. */
SOFT_RACY static __attribute__((noinline)) bool x_cas16(struct soft_cpu *c, void *p, bool direct)
{
    uint64_t low = c->gpr[SOFT_RAX], high = c->gpr[SOFT_RDX];
    bool ok;
    if (direct) {
        __asm__ volatile("lock cmpxchg16b %1"
                         : "=@ccz"(ok), "+m"(*(unsigned __int128 *)p), "+a"(low), "+d"(high)
                         : "b"(c->gpr[SOFT_RBX]), "c"(c->gpr[SOFT_RCX])
                         : "memory");
    } else {
        ok = x_get(p, 8) == low && x_get((uint8_t *)p + 8, 8) == high;
        if (ok) {
            x_put(p, 8, c->gpr[SOFT_RBX]);
            x_put((uint8_t *)p + 8, 8, c->gpr[SOFT_RCX]);
        } else {
            low = x_get(p, 8);
            high = x_get((uint8_t *)p + 8, 8);
        }
    }
    c->gpr[SOFT_RAX] = low;
    c->gpr[SOFT_RDX] = high;
    return ok;
}
/* Without LOCK it need not be atomic, but is. Misaligned: #GP(0). */
SOFT_HANDLER(cmpxchg16b)
{
    struct x_val at = x_ea(c, in, 16, SOFT_WRITE);
    struct x_lock l;
    bool ok;
    if (!at.ok)
        return soft_fault(c, in);
    if (at.v & 15)
        return soft_raise_error(c, in, SOFT_GP, 0);
    l = x_lock_begin(c, at.v, 16);
    if (!l.p)
        return soft_fault(c, in);
    ok = x_cas16(c, l.p, l.direct);
    x_lock_end(c, l);
    x_cc_merge(c, SOFT_FL_Z, ok ? SOFT_FL_Z : 0);
    SOFT_NEXT(c, in);
}
