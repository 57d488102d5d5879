// SPDX-License-Identifier: Apache-2.0
/* Pairs of the commonest simple instructions, all combinations, with flags that nobody reads. */
#include "hv/cpu/soft/x_fuse.h"

/* A kind does one instruction whole, or nothing and returns false. Suffix: operand size; i: immediate; m:
 * memory source; x: with index. */
#define KIND(name)                                                                                           \
    X_INLINE __attribute__((unused)) bool do_##name(struct soft_cpu *c, const struct soft_insn *in)
#define REG_REG(name, size, expression)                                                                      \
    KIND(name)                                                                                               \
    {                                                                                                        \
        uint64_t a = x_reg(c, in->rm_at, size), b = x_reg(c, in->reg_at, size);                              \
        (void)a;                                                                                             \
        x_set(c, in->rm_at, size, expression);                                                               \
        return true;                                                                                         \
    }
#define REG_IMM(name, size, expression)                                                                      \
    KIND(name)                                                                                               \
    {                                                                                                        \
        uint64_t a = x_reg(c, in->rm_at, size), b = in->imm;                                                 \
        x_set(c, in->rm_at, size, expression);                                                               \
        return true;                                                                                         \
    }
/* `b` is what was loaded, `a` the register. */
#define LOAD(name, size, from, address, expression)                                                          \
    KIND(name)                                                                                               \
    {                                                                                                        \
        const void *p = x_hit(c, address, from, SOFT_READ);                                                  \
        uint64_t a, b;                                                                                       \
        if (SOFT_UNLIKELY(!p))                                                                               \
            return false;                                                                                    \
        a = x_reg(c, in->reg_at, size);                                                                      \
        b = x_get(p, from);                                                                                  \
        (void)a;                                                                                             \
        x_set(c, in->reg_at, size, expression);                                                              \
        return true;                                                                                         \
    }
#define ADDRESS(name, size, address)                                                                         \
    KIND(name)                                                                                               \
    {                                                                                                        \
        x_set(c, in->reg_at, size, address);                                                                 \
        return true;                                                                                         \
    }
#define STORE(name, size)                                                                                    \
    KIND(name)                                                                                               \
    {                                                                                                        \
        void *p = x_hit(c, BASE, size, SOFT_WRITE);                                                          \
        if (SOFT_UNLIKELY(!p))                                                                               \
            return false;                                                                                    \
        x_put(p, size, x_reg(c, in->reg_at, size));                                                          \
        return true;                                                                                         \
    }
#define BASE (c->gpr[in->base] + (uint64_t)in->disp)
#define INDEX soft_ea_offset(c, in)
#define ROTATE(v, left, n, bits) ((v) << ((left) & ((bits)-1)) | (v) >> ((n) & ((bits)-1)))

REG_REG(mov4, 4, b)
REG_REG(mov8, 8, b)
REG_REG(add4, 4, a + b)
REG_REG(add8, 8, a + b)
REG_REG(sub8, 8, a - b)
REG_REG(xor4, 4, a ^ b)
REG_REG(xor8, 8, a ^ b)
REG_REG(and4, 4, a &b)
REG_REG(and8, 8, a &b)
REG_REG(or4, 4, a | b)
REG_REG(or8, 8, a | b)
REG_IMM(addi4, 4, a + b)
REG_IMM(addi8, 8, a + b)
REG_IMM(subi8, 8, a - b)
REG_IMM(andi4, 4, a &b)
REG_IMM(andi8, 8, a &b)
REG_IMM(shri4, 4, a >> (b & 31))
REG_IMM(shli4, 4, a << (b & 31))
REG_IMM(roli4, 4, ROTATE((uint32_t)a, b, 32 - b, 32))
REG_IMM(rori4, 4, ROTATE((uint32_t)a, 32 - b, b, 32))
REG_IMM(shri8, 8, a >> (b & 63))
REG_IMM(shli8, 8, a << (b & 63))
REG_IMM(roli8, 8, ROTATE(a, b, 64 - b, 64))
REG_IMM(rori8, 8, ROTATE(a, 64 - b, b, 64))
ADDRESS(lea4, 4, BASE)
ADDRESS(lea8, 8, BASE)
ADDRESS(leax4, 4, INDEX)
ADDRESS(leax8, 8, INDEX)
ADDRESS(movi4, 4, in->imm)
LOAD(ld4, 4, 4, BASE, b)
LOAD(ld8, 8, 8, BASE, b)
LOAD(ldx4, 4, 4, INDEX, b)
LOAD(ldx8, 8, 8, INDEX, b)
LOAD(ldb, 4, 1, BASE, b)
LOAD(ldbx, 4, 1, INDEX, b)
LOAD(addm4, 4, 4, INDEX, a + b)
LOAD(addm8, 8, 8, INDEX, a + b)
STORE(st4, 4)
STORE(st8, 8)
KIND(imul8)
{
    x_set(c, in->reg_at, 8, x_reg(c, in->reg_at, 8) * x_reg(c, in->rm_at, 8));
    return true;
}
KIND(push)
{
    uint64_t sp = c->gpr[SOFT_RSP] - 8;
    void *p = x_hit(c, sp, 8, SOFT_WRITE);
    if (SOFT_UNLIKELY(!p))
        return false;
    x_put(p, 8, x_reg(c, in->reg_at, 8));
    c->gpr[SOFT_RSP] = sp;
    return true;
}
KIND(pop)
{
    uint64_t sp = c->gpr[SOFT_RSP];
    const void *p = x_hit(c, sp, 8, SOFT_READ);
    if (SOFT_UNLIKELY(!p))
        return false;
    c->gpr[SOFT_RSP] = sp + 8;
    x_set(c, in->reg_at, 8, x_get(p, 8));
    return true;
}

/* Each kind, and what does its instruction where the fast path fails (the others cannot fail). Builds that
 * return to the loop between instructions are for finding mistakes: a few pairs do, all would take them
 * minutes to compile. */
#define ALL_KINDS(X)                                                                                         \
    X(mov4, soft_x_mov)                                                                                      \
    X(mov8, soft_x_mov)                                                                                      \
    X(add4, soft_x_nop)                                                                                      \
    X(add8, soft_x_nop)                                                                                      \
    X(sub8, soft_x_nop)                                                                                      \
    X(xor4, soft_x_nop)                                                                                      \
    X(xor8, soft_x_nop)                                                                                      \
    X(and4, soft_x_nop)                                                                                      \
    X(and8, soft_x_nop)                                                                                      \
    X(or4, soft_x_nop)                                                                                       \
    X(or8, soft_x_nop)                                                                                       \
    X(addi4, soft_x_nop)                                                                                     \
    X(addi8, soft_x_nop)                                                                                     \
    X(subi8, soft_x_nop)                                                                                     \
    X(andi4, soft_x_nop)                                                                                     \
    X(andi8, soft_x_nop)                                                                                     \
    X(shri4, soft_x_nop)                                                                                     \
    X(shli4, soft_x_nop)                                                                                     \
    X(roli4, soft_x_nop)                                                                                     \
    X(rori4, soft_x_nop)                                                                                     \
    X(shri8, soft_x_nop)                                                                                     \
    X(shli8, soft_x_nop)                                                                                     \
    X(roli8, soft_x_nop)                                                                                     \
    X(rori8, soft_x_nop)                                                                                     \
    X(lea4, soft_x_nop)                                                                                      \
    X(lea8, soft_x_nop)                                                                                      \
    X(leax4, soft_x_nop)                                                                                     \
    X(leax8, soft_x_nop)                                                                                     \
    X(ld4, soft_x_mov)                                                                                       \
    X(ld8, soft_x_mov)                                                                                       \
    X(ldx4, soft_x_mov)                                                                                      \
    X(ldx8, soft_x_mov)                                                                                      \
    X(ldb, soft_x_movzx)                                                                                     \
    X(ldbx, soft_x_movzx)                                                                                    \
    X(st4, soft_x_mov)                                                                                       \
    X(st8, soft_x_mov)                                                                                       \
    X(movi4, soft_x_mov)                                                                                     \
    X(addm4, soft_x_add)                                                                                     \
    X(addm8, soft_x_add)                                                                                     \
    X(imul8, soft_x_nop)                                                                                     \
    X(push, soft_x_push)                                                                                     \
    X(pop, soft_x_pop)
#ifdef SOFT_THREADED
#define KINDS(X) ALL_KINDS(X)
#define SECONDS(X, first, general)                                                                           \
    X(first, general, mov4)                                                                                  \
    X(first, general, mov8)                                                                                  \
    X(first, general, add4)                                                                                  \
    X(first, general, add8)                                                                                  \
    X(first, general, sub8)                                                                                  \
    X(first, general, xor4)                                                                                  \
    X(first, general, xor8)                                                                                  \
    X(first, general, and4)                                                                                  \
    X(first, general, and8)                                                                                  \
    X(first, general, or4)                                                                                   \
    X(first, general, or8)                                                                                   \
    X(first, general, addi4)                                                                                 \
    X(first, general, addi8)                                                                                 \
    X(first, general, subi8)                                                                                 \
    X(first, general, andi4)                                                                                 \
    X(first, general, andi8)                                                                                 \
    X(first, general, shri4)                                                                                 \
    X(first, general, shli4)                                                                                 \
    X(first, general, roli4)                                                                                 \
    X(first, general, rori4)                                                                                 \
    X(first, general, shri8)                                                                                 \
    X(first, general, shli8)                                                                                 \
    X(first, general, roli8)                                                                                 \
    X(first, general, rori8)                                                                                 \
    X(first, general, lea4)                                                                                  \
    X(first, general, lea8)                                                                                  \
    X(first, general, leax4)                                                                                 \
    X(first, general, leax8)                                                                                 \
    X(first, general, ld4)                                                                                   \
    X(first, general, ld8)                                                                                   \
    X(first, general, ldx4)                                                                                  \
    X(first, general, ldx8)                                                                                  \
    X(first, general, ldb)                                                                                   \
    X(first, general, ldbx)                                                                                  \
    X(first, general, st4)                                                                                   \
    X(first, general, st8)                                                                                   \
    X(first, general, movi4)                                                                                 \
    X(first, general, addm4)                                                                                 \
    X(first, general, addm8)                                                                                 \
    X(first, general, imul8)                                                                                 \
    X(first, general, push)                                                                                  \
    X(first, general, pop)
#else
#define KINDS(X)                                                                                             \
    X(mov4, soft_x_mov)                                                                                      \
    X(add8, soft_x_nop)                                                                                      \
    X(xor4, soft_x_nop)                                                                                      \
    X(rori4, soft_x_nop)                                                                                     \
    X(ld4, soft_x_mov)                                                                                       \
    X(ldbx, soft_x_movzx)                                                                                    \
    X(st8, soft_x_mov)                                                                                       \
    X(push, soft_x_push)                                                                                     \
    X(pop, soft_x_pop)
#define SECONDS(X, first, general)                                                                           \
    X(first, general, mov4)                                                                                  \
    X(first, general, add8)                                                                                  \
    X(first, general, xor4)                                                                                  \
    X(first, general, rori4)                                                                                 \
    X(first, general, ld4)                                                                                   \
    X(first, general, ldbx)                                                                                  \
    X(first, general, st8)                                                                                   \
    X(first, general, push)                                                                                  \
    X(first, general, pop)
#endif

#define PAIR(first, general, second)                                                                         \
    static soft_next p_##first##_##second(struct soft_cpu *c, const struct soft_insn *in)                    \
    {                                                                                                        \
        if (SOFT_UNLIKELY(!do_##first(c, in)))                                                               \
            return general(c, in);                                                                           \
        if (SOFT_UNLIKELY(!do_##second(c, in + 1)))                                                          \
            SOFT_GO(c, in + 1);                                                                              \
        SOFT_GO(c, in + 2);                                                                                  \
    }
#define PAIRS(first, general) SECONDS(PAIR, first, general)
KINDS(PAIRS)

#define ENUM(name, general) K_##name,
enum kind { ALL_KINDS(ENUM) K_COUNT, K_NONE };
#define REF(first, general, second) [K_##second] = p_##first##_##second,
#define REFS(first, general) [K_##first] = {SECONDS(REF, first, general)},
static const soft_fn table[K_COUNT][K_COUNT] = {KINDS(REFS)};

static enum kind pick(const struct soft_insn *in, enum kind four, enum kind eight)
{
    return in->size == 4 ? four : in->size == 8 ? eight : K_NONE;
}

/* ADD SUB XOR AND OR with flags unread. */
static enum kind kind_alu(const struct soft_insn *in, enum kind r4, enum kind r8, enum kind i4, enum kind i8,
                          enum kind m4, enum kind m8)
{
    bool mem = in->flags & SOFT_I_MEM;
    unsigned o = in->opcode;
    if (!(in->flags & SOFT_I_NF))
        return K_NONE;
    if (o >= 0x40)
        return mem ? K_NONE : pick(in, i4, i8);
    switch (o & 7) {
    case 1:
        return mem ? K_NONE : pick(in, r4, r8);
    case 3:
        return mem ? pick(in, m4, m8) : K_NONE;
    case 5:
        return in->rm_at == 0 ? pick(in, i4, i8) : K_NONE;
    default:
        return K_NONE;
    }
}

static enum kind kind_mov(const struct soft_insn *in, bool mem, bool index)
{
    switch (in->opcode) {
    case 0x89:
        if (!mem)
            return pick(in, K_mov4, K_mov8);
        return index ? K_NONE : pick(in, K_st4, K_st8);
    case 0x8b:
        if (!mem)
            return K_NONE;
        return index ? pick(in, K_ldx4, K_ldx8) : pick(in, K_ld4, K_ld8);
    default:
        return in->opcode >= 0xb8 && in->opcode <= 0xbf ? pick(in, K_movi4, K_NONE) : K_NONE;
    }
}

static enum kind kind_shift(const struct soft_insn *in, enum kind four, enum kind eight)
{
    bool mem = in->flags & SOFT_I_MEM;
    return mem || !(in->flags & SOFT_I_NF) ? K_NONE : pick(in, four, eight);
}

static enum kind kind_of(const struct soft_insn *in)
{
    bool mem = in->flags & SOFT_I_MEM, index = in->index != SOFT_GPR_ZERO;
    switch (x_mnemonic_of(in)) {
    case X_M_MOV:
        return kind_mov(in, mem, index);
    case X_M_MOVZX: /* zero-extension to 64 bits is that to 32 */
        return !mem || (in->opcode & 1) || in->size < 4 ? K_NONE : index ? K_ldbx : K_ldb;
    case X_M_ADD:
        return kind_alu(in, K_add4, K_add8, K_addi4, K_addi8, K_addm4, K_addm8);
    case X_M_SUB:
        return kind_alu(in, K_NONE, K_sub8, K_NONE, K_subi8, K_NONE, K_NONE);
    case X_M_XOR:
        return kind_alu(in, K_xor4, K_xor8, K_NONE, K_NONE, K_NONE, K_NONE);
    case X_M_AND:
        return kind_alu(in, K_and4, K_and8, K_andi4, K_andi8, K_NONE, K_NONE);
    case X_M_OR:
        return kind_alu(in, K_or4, K_or8, K_NONE, K_NONE, K_NONE, K_NONE);
    case X_M_SHL:
        return kind_shift(in, K_shli4, K_shli8);
    case X_M_SHR:
        return kind_shift(in, K_shri4, K_shri8);
    case X_M_ROL:
        return kind_shift(in, K_roli4, K_roli8);
    case X_M_ROR:
        return kind_shift(in, K_rori4, K_rori8);
    case X_M_LEA:
        if (in->asize != 8)
            return K_NONE;
        return index ? pick(in, K_leax4, K_leax8) : pick(in, K_lea4, K_lea8);
    case X_M_IMUL2:
        return mem || !(in->flags & SOFT_I_NF) ? K_NONE : pick(in, K_NONE, K_imul8);
    case X_M_PUSH:
        return in->size == 8 && in->opcode < 0x60 ? K_push : K_NONE;
    case X_M_POP:
        return in->size == 8 && in->opcode < 0x60 ? K_pop : K_NONE;
    default:
        return K_NONE;
    }
}

soft_fn x_fuse_pair(const struct soft_insn *in)
{
    enum kind a = kind_of(in), b = a == K_NONE ? K_NONE : kind_of(in + 1);
    return b == K_NONE ? NULL : table[a][b];
}
