// SPDX-License-Identifier: Apache-2.0
/* ADD OR ADC SBB AND SUB XOR CMP TEST, INC DEC NEG NOT: general handlers, and fast ones by size, form and
 * whether anybody reads the flags. */
#include "hv/cpu/soft/x_int.h"

enum x_op { X_ADD, X_OR, X_ADC, X_SBB, X_AND, X_SUB, X_XOR, X_CMP, X_TEST, X_INC, X_DEC, X_NEG, X_NOT };

X_INLINE bool x_writes(enum x_op op)
{
    return op != X_CMP && op != X_TEST;
}
X_INLINE bool x_carries(enum x_op op)
{
    return op == X_ADC || op == X_SBB || op == X_INC || op == X_DEC;
}

X_INLINE uint64_t x_calc(enum x_op op, uint64_t a, uint64_t b, bool carry)
{
    switch (op) {
    case X_ADD:
        return a + b;
    case X_OR:
        return a | b;
    case X_ADC:
        return a + b + carry;
    case X_SBB:
        return a - b - carry;
    case X_AND:
    case X_TEST:
        return a & b;
    case X_XOR:
        return a ^ b;
    case X_INC:
        return a + 1;
    case X_DEC:
        return a - 1;
    case X_NEG:
        return 0 - a;
    case X_NOT:
        return ~a;
    default:
        return a - b;
    }
}

/* `carry` is CF before the instruction (only looked at where x_carries). */
X_INLINE void x_flags(struct soft_cpu *c, enum x_op op, unsigned size, uint64_t a, uint64_t b, uint64_t r,
                      bool carry)
{
    switch (op) {
    case X_ADD:
        x_cc_add(c, size, r, b);
        break;
    case X_SUB:
    case X_CMP:
        x_cc_sub(c, size, a, b);
        break;
    case X_NEG:
        x_cc_sub(c, size, 0, a);
        break;
    case X_ADC:
    case X_SBB:
        c->cc.res = x_sx(r, size);
        c->cc.src = x_sx(b, size);
        c->cc.aux = x_sx(a, size);
        c->cc.op = op == X_ADC ? SOFT_CC(SOFT_CC_ADC, size) : SOFT_CC(SOFT_CC_SBB, size);
        break;
    case X_INC:
    case X_DEC:
        c->cc.res = x_sx(r, size);
        c->cc.src = carry;
        c->cc.op = op == X_INC ? SOFT_CC(SOFT_CC_INC, size) : SOFT_CC(SOFT_CC_DEC, size);
        break;
    case X_NOT:
        break;
    default:
        x_cc_logic(c, size, r);
        break;
    }
}

/* LOCK. The flags come last: ADC and SBB read CF in every round. */
X_INLINE soft_next x_alu_lock(struct soft_cpu *c, const struct soft_insn *in, uint64_t lin, uint64_t b,
                              enum x_op op, unsigned size)
{
    bool carry = x_carries(op) && soft_cc_cf(&c->cc);
    struct x_lock l = x_lock_begin(c, lin, size);
    uint64_t a, r;
    if (!l.p)
        return soft_fault(c, in);
    a = x_get(l.p, size);
    if (l.direct) {
        do
            r = x_calc(op, a, b, carry);
        while (!x_cas(l.p, size, &a, r));
    } else {
        r = x_calc(op, a, b, carry);
        x_put(l.p, size, r);
    }
    x_lock_end(c, l);
    x_flags(c, op, size, a, b, r, carry);
    SOFT_NEXT(c, in);
}

/* The destination is the memory operand. */
X_INLINE soft_next x_alu_to_mem(struct soft_cpu *c, const struct soft_insn *in, uint64_t b, enum x_op op,
                                unsigned size)
{
    bool carry = x_carries(op) && soft_cc_cf(&c->cc);
    struct x_val at = x_ea(c, in, size, x_writes(op) ? SOFT_WRITE : SOFT_READ);
    uint64_t a, r;
    void *p;
    if (!at.ok)
        return soft_fault(c, in);
    if (!x_writes(op)) {
        struct x_val v = x_ld(c, at.v, size);
        if (!v.ok)
            return soft_fault(c, in);
        x_flags(c, op, size, v.v, b, x_calc(op, v.v, b, carry), carry);
        SOFT_NEXT(c, in);
    }
    if (in->flags & SOFT_I_LOCK)
        return x_alu_lock(c, in, at.v, b, op, size);
    p = soft_rmw_begin(c, at.v, size);
    if (!p)
        return soft_fault(c, in);
    a = x_get(p, size);
    r = x_calc(op, a, b, carry);
    x_put(p, size, r);
    soft_rmw_end(c, p);
    x_flags(c, op, size, a, b, r, carry);
    SOFT_NEXT(c, in);
}

X_INLINE soft_next x_alu_to_reg(struct soft_cpu *c, const struct soft_insn *in, unsigned at, uint64_t b,
                                enum x_op op, unsigned size, bool nf)
{
    bool carry = x_carries(op) && !(nf && (op == X_INC || op == X_DEC)) && soft_cc_cf(&c->cc);
    uint64_t a = x_reg(c, at, size), r = x_calc(op, a, b, carry);
    if (x_writes(op))
        x_set(c, at, size, r);
    if (!nf)
        x_flags(c, op, size, a, b, r, carry);
    SOFT_NEXT(c, in);
}

/* Which operands: by the opcode, the same for 00..3f, 80..83, 84, 85, a8, a9, f6, f7. */
enum x_form { X_RM_R, X_R_RM, X_A_I, X_RM_I };
X_INLINE enum x_form x_alu_form(unsigned opcode)
{
    if (opcode < 0x40)
        return (opcode & 7) < 2 ? X_RM_R : (opcode & 7) < 4 ? X_R_RM : X_A_I;
    return opcode == 0x84 || opcode == 0x85 ? X_RM_R : opcode == 0xa8 || opcode == 0xa9 ? X_A_I : X_RM_I;
}

X_INLINE soft_next x_alu_any(struct soft_cpu *c, const struct soft_insn *in, enum x_op op, unsigned size)
{
    enum x_form form = x_alu_form(in->opcode);
    uint64_t b;
    if (form == X_R_RM) {
        struct x_val v = x_rm(c, in, size);
        if (!v.ok)
            return soft_fault(c, in);
        return x_alu_to_reg(c, in, in->reg_at, v.v, op, size, false);
    }
    b = form == X_RM_R ? x_reg(c, in->reg_at, size) : in->imm;
    if (in->flags & SOFT_I_MEM)
        return x_alu_to_mem(c, in, b, op, size);
    return x_alu_to_reg(c, in, form == X_A_I ? 0 : in->rm_at, b, op, size, false);
}

/* FE, FF, F6, F7 and 40..4f, whose register is in the opcode. */
X_INLINE soft_next x_unary_any(struct soft_cpu *c, const struct soft_insn *in, enum x_op op, unsigned size)
{
    if (in->flags & SOFT_I_MEM)
        return x_alu_to_mem(c, in, 0, op, size);
    return x_alu_to_reg(c, in, in->opcode < 0x50 ? in->reg_at : in->rm_at, 0, op, size, false);
}

#define ALU(name, OP)                                                                                        \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        X_BY_SIZE(c, in, x_alu_any, OP);                                                                     \
    }
#define UNARY(name, OP)                                                                                      \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        X_BY_SIZE(c, in, x_unary_any, OP);                                                                   \
    }
ALU(add, X_ADD)
ALU(or, X_OR)
ALU(adc, X_ADC)
ALU(sbb, X_SBB)
ALU(and, X_AND)
ALU(sub, X_SUB)
ALU(xor, X_XOR)
ALU(cmp, X_CMP)
ALU(test, X_TEST)
UNARY(inc, X_INC)
UNARY(dec, X_DEC)
UNARY(neg, X_NEG)
UNARY(not, X_NOT)

/* -- fast forms ------------------------------------------------------------------------------------------ */

/* reg,reg by ModRM's direction; reg,imm; reg,mem; mem,reg; mem,imm. A form with `b` unused serves INC... */
enum x_fast { X_RR, X_RR2, X_RI, X_RM, X_MR, X_MI, X_FASTS };

X_INLINE soft_next x_alu_fast_one(struct soft_cpu *c, const struct soft_insn *in, enum x_op op, unsigned size,
                                  enum x_fast form, bool nf, soft_fn general)
{
    uint64_t lin, a, b, r;
    bool carry;
    void *p;
    if (form == X_RR)
        return x_alu_to_reg(c, in, in->rm_at, x_reg(c, in->reg_at, size), op, size, nf);
    if (form == X_RR2)
        return x_alu_to_reg(c, in, in->reg_at, x_reg(c, in->rm_at, size), op, size, nf);
    if (form == X_RI)
        return x_alu_to_reg(c, in, in->rm_at, in->imm, op, size, nf);
    lin = soft_ea_offset(c, in);
    p = x_hit(c, lin, size, form == X_RM || !x_writes(op) ? SOFT_READ : SOFT_WRITE);
    if (SOFT_UNLIKELY(!p))
        return general(c, in);
    a = x_get(p, size);
    if (form == X_RM)
        return x_alu_to_reg(c, in, in->reg_at, a, op, size, nf);
    b = form == X_MR ? x_reg(c, in->reg_at, size) : in->imm;
    carry = x_carries(op) && !(nf && (op == X_INC || op == X_DEC)) && soft_cc_cf(&c->cc);
    r = x_calc(op, a, b, carry);
    if (x_writes(op))
        x_put(p, size, r);
    if (!nf)
        x_flags(c, op, size, a, b, r, carry);
    SOFT_NEXT(c, in);
}

#define FAST_1(name, OP, size, form, nf)                                                                     \
    static soft_next f_##name##_##size##_##form##_##nf(struct soft_cpu *c, const struct soft_insn *in)       \
    {                                                                                                        \
        return x_alu_fast_one(c, in, OP, size, form, nf, soft_x_##name);                                     \
    }
#define FAST_NF(name, OP, size, form) FAST_1(name, OP, size, form, 0) FAST_1(name, OP, size, form, 1)
#define FAST_FORMS(name, OP, size)                                                                           \
    FAST_NF(name, OP, size, X_RR)                                                                            \
    FAST_NF(name, OP, size, X_RR2)                                                                           \
    FAST_NF(name, OP, size, X_RI)                                                                            \
    FAST_NF(name, OP, size, X_RM)                                                                            \
    FAST_NF(name, OP, size, X_MR)                                                                            \
    FAST_NF(name, OP, size, X_MI)
#define FAST(name, OP)                                                                                       \
    FAST_FORMS(name, OP, 1) FAST_FORMS(name, OP, 2) FAST_FORMS(name, OP, 4) FAST_FORMS(name, OP, 8)
#define FAST_UNARY_SIZE(name, OP, size) FAST_NF(name, OP, size, X_RI) FAST_NF(name, OP, size, X_MI)
#define FAST_UNARY(name, OP)                                                                                 \
    FAST_UNARY_SIZE(name, OP, 1)                                                                             \
    FAST_UNARY_SIZE(name, OP, 2) FAST_UNARY_SIZE(name, OP, 4) FAST_UNARY_SIZE(name, OP, 8)
FAST(add, X_ADD)
FAST(or, X_OR)
FAST(adc, X_ADC)
FAST(sbb, X_SBB)
FAST(and, X_AND)
FAST(sub, X_SUB)
FAST(xor, X_XOR)
FAST(cmp, X_CMP)
FAST(test, X_TEST)
FAST_UNARY(inc, X_INC)
FAST_UNARY(dec, X_DEC)
FAST_UNARY(neg, X_NEG)
FAST_UNARY(not, X_NOT)

#define ROW_F(name, size, form)                                                                              \
    {                                                                                                        \
        f_##name##_##size##_##form##_0, f_##name##_##size##_##form##_1                                       \
    }
#define ROW_S(name, size)                                                                                    \
    {                                                                                                        \
        ROW_F(name, size, X_RR), ROW_F(name, size, X_RR2), ROW_F(name, size, X_RI), ROW_F(name, size, X_RM), \
            ROW_F(name, size, X_MR), ROW_F(name, size, X_MI)                                                 \
    }
#define ROW(name)                                                                                            \
    {                                                                                                        \
        soft_x_##name,                                                                                       \
        {                                                                                                    \
            ROW_S(name, 1), ROW_S(name, 2), ROW_S(name, 4), ROW_S(name, 8)                                   \
        }                                                                                                    \
    }
#define ROW_US(name, size)                                                                                   \
    {                                                                                                        \
        [X_RI] = ROW_F(name, size, X_RI), [X_MI] = ROW_F(name, size, X_MI)                                   \
    }
#define ROW_U(name)                                                                                          \
    {                                                                                                        \
        soft_x_##name,                                                                                       \
        {                                                                                                    \
            ROW_US(name, 1), ROW_US(name, 2), ROW_US(name, 4), ROW_US(name, 8)                               \
        }                                                                                                    \
    }

static const struct {
    soft_fn general;
    soft_fn fn[4][X_FASTS][2];
} fast[] = {ROW(add), ROW(or),   ROW(adc),   ROW(sbb),   ROW(and),   ROW(sub),   ROW(xor),
            ROW(cmp), ROW(test), ROW_U(inc), ROW_U(dec), ROW_U(neg), ROW_U(not )};

soft_fn x_alu_fast(const struct soft_insn *in, soft_fn general)
{
    bool nf = in->flags & SOFT_I_NF, mem = in->flags & SOFT_I_MEM;
    unsigned form;
    if ((in->flags & SOFT_I_LOCK) || (mem && in->ea))
        return NULL;
    for (unsigned i = 0; i < sizeof fast / sizeof fast[0]; i++) {
        if (fast[i].general != general)
            continue;
        if (i >= X_INC) {
            if (in->opcode < 0x50)
                return NULL;
            form = mem ? X_MI : X_RI;
        } else {
            switch (x_alu_form(in->opcode)) {
            case X_RM_R:
                form = mem ? X_MR : X_RR;
                break;
            case X_R_RM:
                form = mem ? X_RM : X_RR2;
                break;
            case X_A_I:
                if (in->rm_at != 0)
                    return NULL;
                form = X_RI;
                break;
            default:
                form = mem ? X_MI : X_RI;
                break;
            }
        }
        return fast[i].fn[x_size_index(in->size)][form][nf];
    }
    return NULL;
}
