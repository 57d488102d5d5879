// SPDX-License-Identifier: Apache-2.0
/* PUSH, POP, PUSHA, POPA, ENTER, LEAVE. The stack pointer moves when every access has succeeded. */
#include "hv/cpu/soft/x_int.h"

X_INLINE soft_next x_push_value(struct soft_cpu *c, const struct soft_insn *in, uint64_t v)
{
    if (!x_push_at(c, in->size, in->size, v))
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] - in->size);
    SOFT_NEXT(c, in);
}

/* 50..57 name the register in the opcode; FF /6 is register or memory, addressed before RSP moves. */
SOFT_HANDLER(push)
{
    struct x_val v;
    if (in->opcode < 0x60)
        v = (struct x_val){x_reg(c, in->reg_at, in->size), true};
    else
        v = x_rm(c, in, in->size);
    if (!v.ok)
        return soft_fault(c, in);
    return x_push_value(c, in, v.v);
}
SOFT_HANDLER(push_imm)
{
    return x_push_value(c, in, in->imm);
}

/* POP to memory computes its address with RSP already moved; POP RSP ends with the value popped. */
SOFT_HANDLER(pop)
{
    uint64_t old = c->gpr[SOFT_RSP];
    struct x_val v = x_peek(c, old, in->size);
    if (!v.ok)
        return soft_fault(c, in);
    x_set_sp(c, old + in->size);
    if (in->opcode < 0x60) {
        x_set(c, in->reg_at, in->size, v.v);
    } else if (!x_set_rm(c, in, in->size, v.v)) {
        c->gpr[SOFT_RSP] = old;
        return soft_fault(c, in);
    }
    SOFT_NEXT(c, in);
}

/* Goes slot by slot, as processors do: a fault leaves what was pushed below the stack pointer. */
SOFT_HANDLER(pusha)
{
    unsigned size = in->size;
    for (unsigned i = 0; i < 8; i++)
        if (!x_push_at(c, (i + 1) * size, size, c->gpr[i]))
            return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] - 8 * size);
    SOFT_NEXT(c, in);
}
/* Workers so that no local of the handler is addressed. */
static __attribute__((noinline)) bool x_popa(struct soft_cpu *c, unsigned size)
{
    uint64_t v[8], sp = c->gpr[SOFT_RSP];
    for (unsigned i = 0; i < 8; i++) {
        struct x_val a = x_peek(c, sp + i * size, size);
        if (!a.ok)
            return false;
        v[7 - i] = a.v;
    }
    for (unsigned i = 0; i < 8; i++)
        if (i != SOFT_RSP)
            x_set(c, 8 * i, size, v[i]);
    x_set_sp(c, sp + 8 * size);
    return true;
}
SOFT_HANDLER(popa)
{
    if (!x_popa(c, in->size))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

/* rBP by the stack's width, as a base of the stack. */
SOFT_HANDLER(leave)
{
    struct x_val v = x_peek(c, c->gpr[SOFT_RBP], in->size);
    if (!v.ok)
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RBP] + in->size);
    x_set(c, 8 * SOFT_RBP, in->size, v.v);
    SOFT_NEXT(c, in);
}

/* Pushes rBP, `level` - 1 outer frame pointers and its own; then makes room. The final stack must be
 * writable. */
static __attribute__((noinline)) bool x_enter(struct soft_cpu *c, const struct soft_insn *in)
{
    unsigned size = in->size, level = in->imm2 & 31;
    uint64_t frame = c->gpr[SOFT_RSP] - size, room = (uint16_t)in->imm;
    uint64_t last = c->gpr[SOFT_RSP] - (uint64_t)size * (level + 1) - room;
    struct x_val a;
    if (!x_push_at(c, size, size, c->gpr[SOFT_RBP]))
        return false;
    for (unsigned i = 1; i < level; i++) {
        a = x_peek(c, c->gpr[SOFT_RBP] - (uint64_t)size * i, size);
        if (!a.ok || !x_push_at(c, size * (i + 1), size, a.v))
            return false;
    }
    if (level && !x_push_at(c, size * (level + 1), size, frame))
        return false;
    a = x_stack(c, last, 1, SOFT_WRITE);
    if (!a.ok || !soft_probe(c, a.v, 1, SOFT_WRITE))
        return false;
    x_set(c, 8 * SOFT_RBP, size, frame);
    x_set_sp(c, last);
    return true;
}
SOFT_HANDLER(enter)
{
    if (!x_enter(c, in))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

/* -- fast: 64-bit mode ----------------------------------------------------------------------------------- */

#define FN(name) static soft_next name(struct soft_cpu *c, const struct soft_insn *in)
FN(f_push_reg)
{
    uint64_t sp = c->gpr[SOFT_RSP] - 8;
    void *p = x_hit(c, sp, 8, SOFT_WRITE);
    if (SOFT_UNLIKELY(!p))
        return soft_x_push(c, in);
    x_put(p, 8, x_reg(c, in->reg_at, 8));
    c->gpr[SOFT_RSP] = sp;
    SOFT_NEXT(c, in);
}
FN(f_push_imm)
{
    uint64_t sp = c->gpr[SOFT_RSP] - 8;
    void *p = x_hit(c, sp, 8, SOFT_WRITE);
    if (SOFT_UNLIKELY(!p))
        return soft_x_push_imm(c, in);
    x_put(p, 8, in->imm);
    c->gpr[SOFT_RSP] = sp;
    SOFT_NEXT(c, in);
}
FN(f_pop_reg)
{
    uint64_t sp = c->gpr[SOFT_RSP];
    const void *p = x_hit(c, sp, 8, SOFT_READ);
    if (SOFT_UNLIKELY(!p))
        return soft_x_pop(c, in);
    c->gpr[SOFT_RSP] = sp + 8;
    x_set(c, in->reg_at, 8, x_get(p, 8));
    SOFT_NEXT(c, in);
}

soft_fn x_stack_fast(const struct soft_insn *in, soft_fn general)
{
    if (in->size != 8)
        return NULL;
    if (general == soft_x_push && in->opcode < 0x60)
        return f_push_reg;
    if (general == soft_x_push_imm)
        return f_push_imm;
    return general == soft_x_pop && in->opcode < 0x60 ? f_pop_reg : NULL;
}
