// SPDX-License-Identifier: Apache-2.0
/* MOV, MOVZX, MOVSX(D), LEA, XCHG's register form is in x_atomic.c, CMOVcc, CBW, CWD, XLAT. */
#include "hv/cpu/soft/x_int.h"

/* -- general --------------------------------------------------------------------------------------------- */

X_INLINE soft_next x_mov_any(struct soft_cpu *c, const struct soft_insn *in, int unused, unsigned size)
{
    unsigned op = in->opcode;
    struct x_val v;
    (void)unused;
    if (op == 0x8a || op == 0x8b) {
        v = x_rm(c, in, size);
        if (!v.ok)
            return soft_fault(c, in);
        x_set(c, in->reg_at, size, v.v);
        SOFT_NEXT(c, in);
    }
    if (op >= 0xb0 && op <= 0xbf) {
        x_set(c, in->reg_at, size, in->imm);
        SOFT_NEXT(c, in);
    }
    if (!x_set_rm(c, in, size, op == 0x88 || op == 0x89 ? x_reg(c, in->reg_at, size) : in->imm))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(mov)
{
    X_BY_SIZE(c, in, x_mov_any, 0);
}

X_INLINE soft_next x_moffs(struct soft_cpu *c, const struct soft_insn *in, bool load, unsigned size)
{
    if (load) {
        struct x_val v = x_ld_mem(c, in, size);
        if (!v.ok)
            return soft_fault(c, in);
        x_set(c, 0, size, v.v);
    } else if (!x_st_mem(c, in, size, x_reg(c, 0, size))) {
        return soft_fault(c, in);
    }
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(mov_moffs_load)
{
    X_BY_SIZE(c, in, x_moffs, true);
}
SOFT_HANDLER(mov_moffs_store)
{
    X_BY_SIZE(c, in, x_moffs, false);
}

/* The source is a byte (B6, BE), or a word (B7, BF); MOVSXD's a doubleword, or a word under 66. */
X_INLINE soft_next x_extend(struct soft_cpu *c, const struct soft_insn *in, unsigned from, bool sign)
{
    struct x_val v;
    if (in->flags & SOFT_I_MEM)
        v = x_ld_mem(c, in, from);
    else
        v = (struct x_val){x_reg(c, in->rm_at, from), true};
    if (!v.ok)
        return soft_fault(c, in);
    v.v = sign ? x_sx(v.v, from) : v.v;
    if (in->size == 2)
        x_set(c, in->reg_at, 2, v.v);
    else if (in->size == 4)
        x_set(c, in->reg_at, 4, v.v);
    else
        x_set(c, in->reg_at, 8, v.v);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(movzx)
{
    if (in->opcode & 1)
        return x_extend(c, in, 2, false);
    return x_extend(c, in, 1, false);
}
SOFT_HANDLER(movsx)
{
    if (in->opcode & 1)
        return x_extend(c, in, 2, true);
    return x_extend(c, in, 1, true);
}
SOFT_HANDLER(movsxd)
{
    if (in->size == 2)
        return x_extend(c, in, 2, true);
    return x_extend(c, in, 4, true);
}

SOFT_HANDLER(lea)
{
    uint64_t v = soft_ea_offset(c, in);
    v = in->asize == 8 ? v : in->asize == 4 ? (uint32_t)v : (uint16_t)v;
    if (in->size == 2)
        x_set(c, in->reg_at, 2, v);
    else if (in->size == 4)
        x_set(c, in->reg_at, 4, v);
    else
        x_set(c, in->reg_at, 8, v);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(cbw)
{
    uint64_t v = c->gpr[SOFT_RAX];
    if (in->size == 2)
        x_set(c, 0, 2, x_sx(v, 1));
    else if (in->size == 4)
        x_set(c, 0, 4, x_sx(v, 2));
    else
        x_set(c, 0, 8, x_sx(v, 4));
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(cwd)
{
    uint64_t v = (uint64_t)((int64_t)x_sx(c->gpr[SOFT_RAX], in->size) >> 63);
    if (in->size == 2)
        x_set(c, 8 * SOFT_RDX, 2, v);
    else if (in->size == 4)
        x_set(c, 8 * SOFT_RDX, 4, v);
    else
        x_set(c, 8 * SOFT_RDX, 8, v);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(xlat)
{
    uint64_t off = c->gpr[SOFT_RBX] + (uint8_t)c->gpr[SOFT_RAX];
    struct x_val a;
    off = in->asize == 8 ? off : in->asize == 4 ? (uint32_t)off : (uint16_t)off;
    a = x_canonical(c, x_linear(c, in->seg, off, 1, SOFT_READ), in->seg);
    if (a.ok)
        a = x_ld(c, a.v, 1);
    if (!a.ok)
        return soft_fault(c, in);
    x_set(c, 0, 1, a.v);
    SOFT_NEXT(c, in);
}

/* The load happens, and a 32-bit destination's upper half is zeroed, whether or not the condition holds. */
X_INLINE soft_next x_cmov_any(struct soft_cpu *c, const struct soft_insn *in, int unused, unsigned size)
{
    struct x_val v = x_rm(c, in, size);
    uint64_t old = x_reg(c, in->reg_at, size);
    (void)unused;
    if (!v.ok)
        return soft_fault(c, in);
    x_set(c, in->reg_at, size, soft_cc_test(&c->cc, in->cc) ? v.v : old);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(cmovcc)
{
    X_BY_SIZE(c, in, x_cmov_any, 0);
}

SOFT_HANDLER(setcc)
{
    if (!x_set_rm(c, in, 1, soft_cc_test(&c->cc, in->cc)))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

/* -- fast ------------------------------------------------------------------------------------------------ */

/* Addresses: base + disp, or with an index. */
X_INLINE uint64_t x_addr(const struct soft_cpu *c, const struct soft_insn *in, bool index)
{
    return index ? soft_ea_offset(c, in) : c->gpr[in->base] + (uint64_t)in->disp;
}

enum x_load { X_PLAIN, X_ZERO1, X_ZERO2, X_SIGN1, X_SIGN2, X_SIGN4, X_LOADS };
X_INLINE unsigned x_from(enum x_load how, unsigned size)
{
    switch (how) {
    case X_ZERO1:
    case X_SIGN1:
        return 1;
    case X_ZERO2:
    case X_SIGN2:
        return 2;
    case X_SIGN4:
        return 4;
    default:
        return size;
    }
}
X_INLINE uint64_t x_widen(uint64_t v, enum x_load how, unsigned size)
{
    return how == X_SIGN1 || how == X_SIGN2 || how == X_SIGN4 ? x_sx(v, x_from(how, size)) : v;
}

X_INLINE soft_next x_load_fast(struct soft_cpu *c, const struct soft_insn *in, enum x_load how, unsigned size,
                               bool index, soft_fn general)
{
    unsigned from = x_from(how, size);
    const void *p = x_hit(c, x_addr(c, in, index), from, SOFT_READ);
    if (SOFT_UNLIKELY(!p))
        return general(c, in);
    x_set(c, in->reg_at, size, x_widen(x_get(p, from), how, size));
    SOFT_NEXT(c, in);
}
X_INLINE soft_next x_move_fast(struct soft_cpu *c, const struct soft_insn *in, enum x_load how, unsigned size)
{
    x_set(c, in->reg_at, size, x_widen(x_reg(c, in->rm_at, x_from(how, size)), how, size));
    SOFT_NEXT(c, in);
}
X_INLINE soft_next x_store_fast(struct soft_cpu *c, const struct soft_insn *in, bool imm, unsigned size,
                                bool index)
{
    void *p = x_hit(c, x_addr(c, in, index), size, SOFT_WRITE);
    if (SOFT_UNLIKELY(!p))
        return soft_x_mov(c, in);
    x_put(p, size, imm ? in->imm : x_reg(c, in->reg_at, size));
    SOFT_NEXT(c, in);
}

#define FN(name) static soft_next name(struct soft_cpu *c, const struct soft_insn *in)
#define LOAD(how, size, general)                                                                             \
    FN(f_ld_##how##_##size##_0)                                                                              \
    {                                                                                                        \
        return x_load_fast(c, in, how, size, false, general);                                                \
    }                                                                                                        \
    FN(f_ld_##how##_##size##_1)                                                                              \
    {                                                                                                        \
        return x_load_fast(c, in, how, size, true, general);                                                 \
    }                                                                                                        \
    FN(f_ld_##how##_##size##_r)                                                                              \
    {                                                                                                        \
        return x_move_fast(c, in, how, size);                                                                \
    }
#define STORE(size)                                                                                          \
    FN(f_st_##size##_0)                                                                                      \
    {                                                                                                        \
        return x_store_fast(c, in, false, size, false);                                                      \
    }                                                                                                        \
    FN(f_st_##size##_1)                                                                                      \
    {                                                                                                        \
        return x_store_fast(c, in, false, size, true);                                                       \
    }                                                                                                        \
    FN(f_sti_##size##_0)                                                                                     \
    {                                                                                                        \
        return x_store_fast(c, in, true, size, false);                                                       \
    }                                                                                                        \
    FN(f_sti_##size##_1)                                                                                     \
    {                                                                                                        \
        return x_store_fast(c, in, true, size, true);                                                        \
    }                                                                                                        \
    FN(f_rr_##size)                                                                                          \
    {                                                                                                        \
        x_set(c, in->rm_at, size, x_reg(c, in->reg_at, size));                                               \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    FN(f_ri_##size)                                                                                          \
    {                                                                                                        \
        x_set(c, in->rm_at, size, in->imm);                                                                  \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    FN(f_oi_##size)                                                                                          \
    {                                                                                                        \
        x_set(c, in->reg_at, size, in->imm);                                                                 \
        SOFT_NEXT(c, in);                                                                                    \
    }
#define PER_SIZE(M, ...) M(1, ##__VA_ARGS__) M(2, ##__VA_ARGS__) M(4, ##__VA_ARGS__) M(8, ##__VA_ARGS__)
PER_SIZE(STORE)
LOAD(X_PLAIN, 1, soft_x_mov)
LOAD(X_PLAIN, 2, soft_x_mov)
LOAD(X_PLAIN, 4, soft_x_mov)
LOAD(X_PLAIN, 8, soft_x_mov)
LOAD(X_ZERO1, 2, soft_x_movzx)
LOAD(X_ZERO1, 4, soft_x_movzx)
LOAD(X_ZERO2, 4, soft_x_movzx)
LOAD(X_SIGN1, 2, soft_x_movsx)
LOAD(X_SIGN1, 4, soft_x_movsx)
LOAD(X_SIGN1, 8, soft_x_movsx)
LOAD(X_SIGN2, 4, soft_x_movsx)
LOAD(X_SIGN2, 8, soft_x_movsx)
LOAD(X_SIGN4, 8, soft_x_movsxd)

/* Zero-extension to 64 bits is that to 32. Index: log2 of the size; then base only, with index, register. */
#define T(how, size)                                                                                         \
    {                                                                                                        \
        f_ld_##how##_##size##_0, f_ld_##how##_##size##_1, f_ld_##how##_##size##_r                            \
    }
static const soft_fn loads[X_LOADS][4][3] = {
    [X_PLAIN] = {T(X_PLAIN, 1), T(X_PLAIN, 2), T(X_PLAIN, 4), T(X_PLAIN, 8)},
    [X_ZERO1] = {{NULL}, T(X_ZERO1, 2), T(X_ZERO1, 4), T(X_ZERO1, 4)},
    [X_ZERO2] = {{NULL}, {NULL}, T(X_ZERO2, 4), T(X_ZERO2, 4)},
    [X_SIGN1] = {{NULL}, T(X_SIGN1, 2), T(X_SIGN1, 4), T(X_SIGN1, 8)},
    [X_SIGN2] = {{NULL}, {NULL}, T(X_SIGN2, 4), T(X_SIGN2, 8)},
    [X_SIGN4] = {{NULL}, {NULL}, {NULL}, T(X_SIGN4, 8)},
};
#define TS(size)                                                                                             \
    {                                                                                                        \
        f_st_##size##_0, f_st_##size##_1, f_sti_##size##_0, f_sti_##size##_1                                 \
    }
static const soft_fn stores[4][4] = {TS(1), TS(2), TS(4), TS(8)};
static const soft_fn reg_reg[4] = {f_rr_1, f_rr_2, f_rr_4, f_rr_8};
static const soft_fn reg_imm[4] = {f_ri_1, f_ri_2, f_ri_4, f_ri_8};
static const soft_fn opc_imm[4] = {f_oi_1, f_oi_2, f_oi_4, f_oi_8};

#define LEA(size)                                                                                            \
    FN(f_lea_##size##_0)                                                                                     \
    {                                                                                                        \
        x_set(c, in->reg_at, size, x_addr(c, in, false));                                                    \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    FN(f_lea_##size##_1)                                                                                     \
    {                                                                                                        \
        x_set(c, in->reg_at, size, x_addr(c, in, true));                                                     \
        SOFT_NEXT(c, in);                                                                                    \
    }
LEA(4)
LEA(8)

#define COND(CC)                                                                                             \
    FN(f_set_##CC)                                                                                           \
    {                                                                                                        \
        x_set(c, in->rm_at, 1, soft_cc_test(&c->cc, CC));                                                    \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    FN(f_cmov4_##CC)                                                                                         \
    {                                                                                                        \
        uint64_t a = x_reg(c, in->reg_at, 4), b = x_reg(c, in->rm_at, 4);                                    \
        x_set(c, in->reg_at, 4, soft_cc_test(&c->cc, CC) ? b : a);                                           \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    FN(f_cmov8_##CC)                                                                                         \
    {                                                                                                        \
        uint64_t a = x_reg(c, in->reg_at, 8), b = x_reg(c, in->rm_at, 8);                                    \
        x_set(c, in->reg_at, 8, soft_cc_test(&c->cc, CC) ? b : a);                                           \
        SOFT_NEXT(c, in);                                                                                    \
    }
#define ALL_CC(M) M(0) M(1) M(2) M(3) M(4) M(5) M(6) M(7) M(8) M(9) M(10) M(11) M(12) M(13) M(14) M(15)
ALL_CC(COND)
#define TC(CC) {f_set_##CC, f_cmov4_##CC, f_cmov8_##CC},
static const soft_fn conds[16][3] = {ALL_CC(TC)};

static soft_fn x_load_choose(const struct soft_insn *in, enum x_load how)
{
    const soft_fn *f = loads[how][x_size_index(in->size)];
    if (!(in->flags & SOFT_I_MEM))
        return f[2];
    return in->ea ? NULL : f[in->index != SOFT_GPR_ZERO];
}

soft_fn x_mov_fast(const struct soft_insn *in, soft_fn general)
{
    bool mem = in->flags & SOFT_I_MEM, index = in->index != SOFT_GPR_ZERO;
    unsigned s = x_size_index(in->size), op = in->opcode;
    if (general == soft_x_mov) {
        if (op == 0x8a || op == 0x8b)
            return x_load_choose(in, X_PLAIN);
        if (op >= 0xb0 && op <= 0xbf)
            return opc_imm[s];
        if (!mem)
            return op < 0xc0 ? reg_reg[s] : reg_imm[s];
        return in->ea ? NULL : stores[s][2 * (op >= 0xc0) + index];
    }
    if (general == soft_x_movzx)
        return x_load_choose(in, op & 1 ? X_ZERO2 : X_ZERO1);
    if (general == soft_x_movsx)
        return x_load_choose(in, op & 1 ? X_SIGN2 : X_SIGN1);
    if (general == soft_x_movsxd)
        return x_load_choose(in, X_SIGN4);
    if (general == soft_x_lea && in->asize == 8 && in->size >= 4)
        return in->size == 4 ? (index ? f_lea_4_1 : f_lea_4_0) : (index ? f_lea_8_1 : f_lea_8_0);
    if (general == soft_x_setcc && !mem)
        return conds[in->cc & 15][0];
    if (general == soft_x_cmovcc && !mem && in->size >= 4)
        return conds[in->cc & 15][in->size == 8 ? 2 : 1];
    return NULL;
}
