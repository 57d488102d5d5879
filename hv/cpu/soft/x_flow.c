// SPDX-License-Identifier: Apache-2.0
/* Near control flow: Jcc, JMP, CALL, RET, LOOP, JCXZ. A target is checked before any register changes. */
#include "hv/cpu/soft/x_int.h"

/* A target wrapped to the operand's size. */
X_INLINE uint64_t x_wrap(uint64_t rip, unsigned size)
{
    return size == 8 ? rip : size == 4 ? (uint32_t)rip : (uint16_t)rip;
}
X_INLINE uint64_t x_target(const struct soft_cpu *c, const struct soft_insn *in)
{
    return x_wrap(c->gpr[SOFT_GPR_BLOCK] + in->off + in->len + in->imm, in->size);
}
X_INLINE bool x_target_ok(struct soft_cpu *c, uint64_t rip)
{
    if (SOFT_LIKELY(c->mode == SOFT_64 && (uint64_t)((int64_t)(rip << 16) >> 16) == rip))
        return true;
    return soft_branch_ok(c, rip);
}
X_INLINE soft_next x_taken(struct soft_cpu *c, const struct soft_insn *in)
{
    return soft_branch(c, in, x_target(c, in), 0);
}
X_INLINE soft_next x_not_taken(struct soft_cpu *c, const struct soft_insn *in)
{
    return soft_branch(c, in, soft_rip_next(c, in), 1);
}

SOFT_HANDLER(jcc)
{
    if (soft_cc_test(&c->cc, in->cc))
        return x_taken(c, in);
    return x_not_taken(c, in);
}
SOFT_HANDLER(jmp_rel)
{
    return x_taken(c, in);
}

/* Push the return address. Where both the stack and the target are bad, the stack's fault is the one. */
X_INLINE bool x_call(struct soft_cpu *c, const struct soft_insn *in, uint64_t to)
{
    struct x_val a;
    if (SOFT_LIKELY(x_target_ok(c, to)))
        return x_push_at(c, in->size, in->size, soft_rip_next(c, in));
    a = x_stack(c, c->gpr[SOFT_RSP] - in->size, in->size, SOFT_WRITE);
    return a.ok && soft_probe(c, a.v, in->size, SOFT_WRITE) && soft_branch_ok(c, to);
}

SOFT_HANDLER(call_rel)
{
    uint64_t to = x_target(c, in);
    if (!x_call(c, in, to))
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] - in->size);
    if (c->mode == SOFT_64)
        soft_called(c, soft_rip_next(c, in));
    return soft_branch(c, in, to, 0);
}
SOFT_HANDLER(jmp_ind)
{
    struct x_val to = x_rm(c, in, in->size);
    if (!to.ok)
        return soft_fault(c, in);
    return soft_branch(c, in, to.v, 2);
}
SOFT_HANDLER(call_ind)
{
    struct x_val to = x_rm(c, in, in->size);
    if (!to.ok || !x_call(c, in, to.v))
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] - in->size);
    if (c->mode == SOFT_64)
        soft_called(c, soft_rip_next(c, in));
    return soft_branch(c, in, to.v, 2);
}

X_INLINE soft_next x_ret(struct soft_cpu *c, const struct soft_insn *in, uint64_t more)
{
    struct x_val to = x_peek(c, c->gpr[SOFT_RSP], in->size);
    if (!to.ok || !x_target_ok(c, to.v))
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] + in->size + more);
    return soft_branch(c, in, to.v, 2);
}
SOFT_HANDLER(ret)
{
    return x_ret(c, in, 0);
}
SOFT_HANDLER(ret_imm)
{
    return x_ret(c, in, (uint16_t)in->imm);
}

/* RCX by the address size. */
X_INLINE uint64_t x_count(const struct soft_cpu *c, const struct soft_insn *in)
{
    return x_wrap(c->gpr[SOFT_RCX], in->asize);
}
X_INLINE soft_next x_loop(struct soft_cpu *c, const struct soft_insn *in, bool also)
{
    uint64_t n = x_wrap(x_count(c, in) - 1, in->asize), to = x_target(c, in);
    bool taken = n != 0 && also;
    if (taken && !x_target_ok(c, to))
        return soft_fault(c, in);
    if (in->asize == 2)
        x_set(c, 8 * SOFT_RCX, 2, n);
    else
        c->gpr[SOFT_RCX] = n;
    return taken ? soft_branch(c, in, to, 0) : x_not_taken(c, in);
}
SOFT_HANDLER(loop)
{
    return x_loop(c, in, true);
}
SOFT_HANDLER(loope)
{
    return x_loop(c, in, soft_cc_zf(&c->cc));
}
SOFT_HANDLER(loopne)
{
    return x_loop(c, in, !soft_cc_zf(&c->cc));
}
SOFT_HANDLER(jcxz)
{
    if (x_count(c, in) == 0)
        return x_taken(c, in);
    return x_not_taken(c, in);
}

/* -- fast: 64-bit mode, which is what size 8 means here -------------------------------------------------- */

#define FN(name) static soft_next name(struct soft_cpu *c, const struct soft_insn *in)
#define NEXT64(c, in) ((c)->gpr[SOFT_GPR_BLOCK] + (in)->off + (in)->len)

#define JCC(CC)                                                                                              \
    FN(f_jcc_##CC)                                                                                           \
    {                                                                                                        \
        if (soft_cc_test(&c->cc, CC))                                                                        \
            return soft_branch(c, in, NEXT64(c, in) + in->imm, 0);                                           \
        return soft_branch(c, in, NEXT64(c, in), 1);                                                         \
    }
#define ALL_CC(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
ALL_CC(JCC)
#define TC(CC) f_jcc_##CC,
static const soft_fn jccs[16] = {ALL_CC(TC)};

FN(f_jmp)
{
    return soft_branch(c, in, NEXT64(c, in) + in->imm, 0);
}
FN(f_jmp_far)
{
    return soft_branch(c, in, NEXT64(c, in) + in->imm, 2);
}
FN(f_jmp_reg)
{
    return soft_branch(c, in, x_reg(c, in->rm_at, 8), 2);
}
X_INLINE soft_next x_call_fast(struct soft_cpu *c, const struct soft_insn *in, unsigned slot)
{
    uint64_t next = NEXT64(c, in), to = next + in->imm, sp = c->gpr[SOFT_RSP] - 8;
    void *p = x_hit(c, sp, 8, SOFT_WRITE);
    if (SOFT_UNLIKELY(!p || (uint64_t)((int64_t)(to << 16) >> 16) != to))
        return soft_x_call_rel(c, in);
    x_put(p, 8, next);
    c->gpr[SOFT_RSP] = sp;
    soft_called(c, next);
    return soft_branch(c, in, to, slot);
}
FN(f_call)
{
    return x_call_fast(c, in, 0);
}
FN(f_call_far)
{
    return x_call_fast(c, in, 2);
}
FN(f_ret)
{
    uint64_t sp = c->gpr[SOFT_RSP], to;
    const void *p = x_hit(c, sp, 8, SOFT_READ);
    if (SOFT_UNLIKELY(!p))
        return soft_x_ret(c, in);
    to = x_get(p, 8);
    if (SOFT_UNLIKELY((uint64_t)((int64_t)(to << 16) >> 16) != to))
        return soft_x_ret(c, in);
    c->gpr[SOFT_RSP] = sp + 8;
    return soft_return(c, in, to);
}

soft_fn x_flow_fast(const struct soft_insn *in, soft_fn general)
{
    if (in->size != 8)
        return NULL;
    if (general == soft_x_jcc)
        return jccs[in->cc & 15];
    if (general == soft_x_jmp_rel)
        return in->imm2 ? f_jmp_far : f_jmp;
    if (general == soft_x_jmp_ind && !(in->flags & SOFT_I_MEM))
        return f_jmp_reg;
    if (general == soft_x_call_rel)
        return in->imm2 ? f_call_far : f_call;
    return general == soft_x_ret ? f_ret : NULL;
}
