// SPDX-License-Identifier: Apache-2.0
/* Moves of SSE, SSE2 and MMX. */
#include "hv/cpu/soft/x_simd.h"

#define LOAD16(name, aligned)                                                                                \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec v;                                                                                    \
        if (!simd_sse_ok(c) || !simd_load(c, in, 16, aligned, &v))                                           \
            return soft_fault(c, in);                                                                        \
        __builtin_memcpy(&c->ymm[in->reg], &v, 16);                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }
#define STORE16(name, aligned)                                                                               \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (!simd_sse_ok(c))                                                                                 \
            return soft_fault(c, in);                                                                        \
        if (!(in->flags & SOFT_I_MEM))                                                                       \
            __builtin_memcpy(&c->ymm[in->rm], &c->ymm[in->reg], 16);                                         \
        else if (!simd_store(c, in, 16, aligned, &c->ymm[in->reg]))                                          \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }

// clang-format off
LOAD16(movaps, true) LOAD16(movapd, true) LOAD16(movdqa, true) LOAD16(movups, false)
LOAD16(movupd, false) LOAD16(movdqu, false) STORE16(movaps_st, true) STORE16(movapd_st, true)
STORE16(movdqa_st, true) STORE16(movups_st, false) STORE16(movupd_st, false) STORE16(movdqu_st, false)
STORE16(movntps, true) STORE16(movntpd, true) STORE16(movntdq, true)
// clang-format on

/* Scalars: from memory the rest becomes zero, from a register it stays. */
#define SCALAR(name, bytes)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec v;                                                                                    \
        if (!simd_sse_ok(c) || !simd_load(c, in, bytes, false, &v))                                          \
            return soft_fault(c, in);                                                                        \
        __builtin_memcpy(&c->ymm[in->reg], &v, in->flags &SOFT_I_MEM ? 16 : bytes);                          \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    SOFT_HANDLER(name##_st)                                                                                  \
    {                                                                                                        \
        if (!simd_sse_ok(c))                                                                                 \
            return soft_fault(c, in);                                                                        \
        if (!(in->flags & SOFT_I_MEM))                                                                       \
            __builtin_memcpy(&c->ymm[in->rm], &c->ymm[in->reg], bytes);                                      \
        else if (!simd_store(c, in, bytes, false, &c->ymm[in->reg]))                                         \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
SCALAR(movss, 4) SCALAR(movsd_x, 8)
    // clang-format on

    // clang-format off
SOFT_HANDLER(movq)
// clang-format on

{
    union soft_vec v;
    if (!simd_sse_ok(c) || !simd_load(c, in, 8, false, &v))
        return soft_fault(c, in);
    __builtin_memcpy(&c->ymm[in->reg], &v, 16);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movq_st)
{
    if (!simd_sse_ok(c))
        return soft_fault(c, in);
    if (!(in->flags & SOFT_I_MEM)) {
        c->ymm[in->rm].u64[0] = c->ymm[in->reg].u64[0];
        c->ymm[in->rm].u64[1] = 0;
    } else if (!simd_store(c, in, 8, false, &c->ymm[in->reg])) {
        return soft_fault(c, in);
    }
    SOFT_NEXT(c, in);
}

/* One half of a vector from memory (or the other half of another), the other half kept. */
#define HALF(name, to, from)                                                                                 \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec v;                                                                                    \
        bool mem = in->flags & SOFT_I_MEM;                                                                   \
        if (!simd_sse_ok(c) || !simd_load(c, in, mem ? 8 : 16, false, &v))                                   \
            return soft_fault(c, in);                                                                        \
        c->ymm[in->reg].u64[to] = v.u64[mem ? 0 : from];                                                     \
        SOFT_NEXT(c, in);                                                                                    \
    }

// clang-format off
HALF(movlps, 0, 0) HALF(movlpd, 0, 0) HALF(movhps, 1, 0) HALF(movhpd, 1, 0) HALF(movhlps, 0, 1)
HALF(movlhps, 1, 0)
// clang-format on

#define HALF_ST(name, from)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec v = {0};                                                                              \
        v.u64[0] = c->ymm[in->reg].u64[from];                                                                \
        if (!simd_sse_ok(c) || !simd_store(c, in, 8, false, &v))                                             \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
HALF_ST(movlps_st, 0) HALF_ST(movlpd_st, 0) HALF_ST(movhps_st, 1) HALF_ST(movhpd_st, 1)
    // clang-format on

    /* --- integer registers and memory of 4 or 8 bytes --- */

    static unsigned wide(const struct soft_insn *in)
{
    return in->flags & SOFT_I_REXW ? 8 : 4;
}

static bool int_operand(struct soft_cpu *c, const struct soft_insn *in, uint64_t *v)
{
    uint64_t lin;
    *v = 0;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, wide(in), SOFT_READ, &lin) && soft_ld(c, lin, wide(in), v);
    *v = wide(in) == 8 ? c->gpr[in->rm] : (uint32_t)c->gpr[in->rm];
    return true;
}

static bool int_store(struct soft_cpu *c, const struct soft_insn *in, uint64_t v)
{
    uint64_t lin;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, wide(in), SOFT_WRITE, &lin) && soft_st(c, lin, wide(in), &v);
    c->gpr[in->rm] = wide(in) == 8 ? v : (uint32_t)v;
    return true;
}

SOFT_HANDLER(movd)
{
    uint64_t v;
    if (!simd_sse_ok(c) || !int_operand(c, in, &v))
        return soft_fault(c, in);
    c->ymm[in->reg].u64[0] = v;
    c->ymm[in->reg].u64[1] = 0;
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movd_st)
{
    if (!simd_sse_ok(c) || !int_store(c, in, c->ymm[in->reg].u64[0]))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movnti)
{
    uint64_t lin, v = c->gpr[in->reg];
    if (!soft_ea(c, in, wide(in), SOFT_WRITE, &lin) || !soft_st(c, lin, wide(in), &v))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movd_mm)
{
    uint64_t v;
    if (!simd_mmx_ok(c) || !int_operand(c, in, &v))
        return soft_fault(c, in);
    simd_mm_put(c, in->reg, v);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movd_mm_st)
{
    if (!simd_mmx_ok(c) || !int_store(c, in, simd_mm(c, in->reg)))
        return soft_fault(c, in);
    simd_mm_enter(c);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movq_mm)
{
    uint64_t v;
    if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &v))
        return soft_fault(c, in);
    simd_mm_put(c, in->reg, v);
    SOFT_NEXT(c, in);
}

static const struct soft_insn *store_mm(struct soft_cpu *c, const struct soft_insn *in)
{
    uint64_t lin;
    if (!simd_mmx_ok(c))
        return soft_fault(c, in);
    if (!(in->flags & SOFT_I_MEM))
        simd_mm_put(c, in->rm, simd_mm(c, in->reg));
    else if (!soft_ea(c, in, 8, SOFT_WRITE, &lin) || !soft_st64(c, lin, simd_mm(c, in->reg)))
        return soft_fault(c, in);
    simd_mm_enter(c);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movq_mm_st)
{
    return store_mm(c, in);
}

SOFT_HANDLER(movntq)
{
    return store_mm(c, in);
}

SOFT_HANDLER(movq2dq)
{
    if (!simd_sse_ok(c) || !simd_mmx_ok(c))
        return soft_fault(c, in);
    c->ymm[in->reg].u64[0] = simd_mm(c, in->rm);
    c->ymm[in->reg].u64[1] = 0;
    simd_mm_enter(c);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movdq2q)
{
    if (!simd_sse_ok(c) || !simd_mmx_ok(c))
        return soft_fault(c, in);
    simd_mm_put(c, in->reg, c->ymm[in->rm].u64[0]);
    SOFT_NEXT(c, in);
}

/* Bytes whose mask byte has its top bit set, to DS:rDI. All of the range must be writable, whatever the mask.
 */
static bool masked_store(struct soft_cpu *c, const struct soft_insn *in, const uint8_t *data,
                         const uint8_t *mask, unsigned n)
{
    uint64_t lin, at = c->gpr[SOFT_RDI];
    at = in->asize == 8 ? at : in->asize == 4 ? (uint32_t)at : (uint16_t)at;
    if (!soft_linear(c, (enum soft_sreg)in->seg, at, n, SOFT_WRITE, &lin) ||
        !soft_probe(c, lin, n, SOFT_WRITE))
        return false;
    for (unsigned i = 0; i < n; i++)
        if (mask[i] >> 7 && !soft_st8(c, lin + i, data[i]))
            return false;
    return true;
}

SOFT_HANDLER(maskmovdqu)
{
    if (!simd_sse_ok(c) || !masked_store(c, in, c->ymm[in->reg].u8, c->ymm[in->rm].u8, 16))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(maskmovq)
{
    if (!simd_mmx_ok(c) || !masked_store(c, in, c->fpu.st[in->reg & 7], c->fpu.st[in->rm & 7], 8))
        return soft_fault(c, in);
    simd_mm_enter(c);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(emms)
{
    if (!simd_mmx_ok(c))
        return soft_fault(c, in);
    simd_mm_enter(c);
    c->fpu.ftw = 0;
    SOFT_NEXT(c, in);
}
