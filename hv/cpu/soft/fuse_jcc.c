// SPDX-License-Identifier: Apache-2.0
/* Comparison (or arithmetic) and conditional branch in 64-bit mode. The flags are left as usual; the
 * condition is computed from them while the compiler still knows what was stored. */
#include "hv/cpu/soft/x_fuse.h"

#define NEXT64(c, in) ((c)->gpr[SOFT_GPR_BLOCK] + (in)->off + (in)->len)

enum x_jop { X_JCMP, X_JTEST, X_JADD, X_JSUB, X_JAND, X_JINC, X_JDEC };
enum x_jform { X_JRR, X_JRI, X_JRM, X_JMR, X_JMI };

X_INLINE void x_jcc_flags(struct soft_cpu *c, enum x_jop op, unsigned size, uint64_t a, uint64_t b,
                          uint64_t r)
{
    bool cf;
    switch (op) {
    case X_JCMP:
    case X_JSUB:
        x_cc_sub(c, size, a, b);
        break;
    case X_JTEST:
    case X_JAND:
        x_cc_logic(c, size, r);
        break;
    case X_JADD:
        x_cc_add(c, size, r, b);
        break;
    default:
        cf = soft_cc_cf(&c->cc);
        c->cc.res = x_sx(r, size);
        c->cc.src = cf;
        c->cc.op = op == X_JINC ? SOFT_CC(SOFT_CC_INC, size) : SOFT_CC(SOFT_CC_DEC, size);
        break;
    }
}

X_INLINE soft_next x_jcc(struct soft_cpu *c, const struct soft_insn *in, enum x_jop op, enum x_jform form,
                         unsigned size, unsigned cc, soft_fn general)
{
    const struct soft_insn *j = in + 1;
    uint64_t a, b, r;
    if (form == X_JRR || form == X_JRI) {
        a = x_reg(c, in->rm_at, size);
        b = form == X_JRR ? x_reg(c, in->reg_at, size) : in->imm;
    } else {
        const void *p = x_hit(c, soft_ea_offset(c, in), size, SOFT_READ);
        if (SOFT_UNLIKELY(!p))
            return general(c, in);
        a = x_get(p, size);
        b = form == X_JMI ? in->imm : x_reg(c, in->reg_at, size);
        if (form == X_JRM) {
            r = a;
            a = b;
            b = r;
        }
    }
    r = op == X_JTEST || op == X_JAND ? a & b
        : op == X_JADD                ? a + b
        : op == X_JINC                ? a + 1
        : op == X_JDEC                ? a - 1
                                      : a - b;
    x_jcc_flags(c, op, size, a, b, r);
    if (op != X_JCMP && op != X_JTEST)
        x_set(c, in->rm_at, size, r);
    if (soft_cc_test(&c->cc, cc))
        return soft_branch(c, j, NEXT64(c, j) + j->imm, 0);
    return soft_branch(c, j, NEXT64(c, j), 1);
}

/* O, NO, P, NP are too rare after these. Builds for finding mistakes have a few (see fuse_pair.c). */
#ifdef SOFT_THREADED
#define CCS(M, ...)                                                                                          \
    M(2, ##__VA_ARGS__)                                                                                      \
    M(3, ##__VA_ARGS__)                                                                                      \
    M(4, ##__VA_ARGS__)                                                                                      \
    M(5, ##__VA_ARGS__)                                                                                      \
    M(6, ##__VA_ARGS__)                                                                                      \
    M(7, ##__VA_ARGS__)                                                                                      \
    M(8, ##__VA_ARGS__)                                                                                      \
    M(9, ##__VA_ARGS__) M(12, ##__VA_ARGS__) M(13, ##__VA_ARGS__) M(14, ##__VA_ARGS__) M(15, ##__VA_ARGS__)
#else
#define CCS(M, ...) M(3, ##__VA_ARGS__) M(4, ##__VA_ARGS__) M(14, ##__VA_ARGS__)
#endif

#define FN(cc_, op, form, size, general)                                                                     \
    static soft_next j_##op##_##form##_##size##_##cc_(struct soft_cpu *c, const struct soft_insn *in)        \
    {                                                                                                        \
        return x_jcc(c, in, op, form, size, cc_, general);                                                   \
    }
#define REF(cc_, op, form, size, general) [cc_] = j_##op##_##form##_##size##_##cc_,

/* op, form, size, and the first instruction's general handler. */
#define ALL(M)                                                                                               \
    M(X_JCMP, X_JRR, 1, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRR, 2, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRR, 4, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRR, 8, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRI, 1, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRI, 2, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRI, 4, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRI, 8, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMI, 1, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMI, 2, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMI, 4, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMI, 8, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRM, 4, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JRM, 8, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMR, 1, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMR, 4, soft_x_cmp)                                                                          \
    M(X_JCMP, X_JMR, 8, soft_x_cmp)                                                                          \
    M(X_JTEST, X_JRR, 1, soft_x_test)                                                                        \
    M(X_JTEST, X_JRR, 2, soft_x_test)                                                                        \
    M(X_JTEST, X_JRR, 4, soft_x_test)                                                                        \
    M(X_JTEST, X_JRR, 8, soft_x_test)                                                                        \
    M(X_JTEST, X_JRI, 1, soft_x_test)                                                                        \
    M(X_JTEST, X_JRI, 4, soft_x_test)                                                                        \
    M(X_JTEST, X_JMI, 1, soft_x_test)                                                                        \
    M(X_JTEST, X_JMI, 4, soft_x_test)                                                                        \
    M(X_JADD, X_JRI, 4, soft_x_add)                                                                          \
    M(X_JADD, X_JRI, 8, soft_x_add)                                                                          \
    M(X_JADD, X_JRR, 8, soft_x_add)                                                                          \
    M(X_JSUB, X_JRI, 4, soft_x_sub)                                                                          \
    M(X_JSUB, X_JRI, 8, soft_x_sub)                                                                          \
    M(X_JSUB, X_JRR, 4, soft_x_sub)                                                                          \
    M(X_JSUB, X_JRR, 8, soft_x_sub)                                                                          \
    M(X_JAND, X_JRI, 4, soft_x_and)                                                                          \
    M(X_JAND, X_JRR, 4, soft_x_and)                                                                          \
    M(X_JAND, X_JRR, 8, soft_x_and)                                                                          \
    M(X_JINC, X_JRI, 4, soft_x_inc)                                                                          \
    M(X_JINC, X_JRI, 8, soft_x_inc)                                                                          \
    M(X_JDEC, X_JRI, 4, soft_x_dec)                                                                          \
    M(X_JDEC, X_JRI, 8, soft_x_dec)

#define FNS(op, form, size, general) CCS(FN, op, form, size, general)
ALL(FNS)

#define KEY(op, form, size) ((op) << 5 | (form) << 2 | ((size) == 8 ? 3 : (size) >> 1))
#define REFS(op, form, size, general) [KEY(op, form, size)] = {CCS(REF, op, form, size, general)},
static const soft_fn table[7 << 5][16] = {ALL(REFS)};

soft_fn x_fuse_jcc(const struct soft_insn *in)
{
    bool mem = in->flags & SOFT_I_MEM;
    unsigned op, form, o = in->opcode;
    if (in[1].size != 8)
        return NULL;
    switch (x_mnemonic_of(in)) {
    case X_M_CMP:
        op = X_JCMP;
        break;
    case X_M_TEST:
        op = X_JTEST;
        break;
    case X_M_ADD:
        op = X_JADD;
        break;
    case X_M_SUB:
        op = X_JSUB;
        break;
    case X_M_AND:
        op = X_JAND;
        break;
    case X_M_INC:
    case X_M_DEC:
        if (o < 0x50)
            return NULL;
        op = x_mnemonic_of(in) == X_M_INC ? X_JINC : X_JDEC;
        break;
    default:
        return NULL;
    }
    if (op == X_JINC || op == X_JDEC)
        form = X_JRI;
    else if (o == 0x84 || o == 0x85 || (o < 0x40 && (o & 7) < 2))
        form = mem ? X_JMR : X_JRR;
    else if (o < 0x40 && (o & 7) < 4)
        form = mem ? X_JRM : X_JRR;
    else
        form = mem ? X_JMI : X_JRI;
    /* Of the reg,rm encodings only the memory form is here: its operands are the other way round. */
    if (o < 0x40 && ((o & 7) == 2 || (o & 7) == 3) && !mem)
        return NULL;
    if (((o < 0x40 && (o & 7) > 3) || o == 0xa8 || o == 0xa9) && in->rm_at != 0)
        return NULL;
    if (mem && op != X_JCMP && op != X_JTEST)
        return NULL;
    return table[KEY(op, form, in->size)][in[1].cc & 15];
}
