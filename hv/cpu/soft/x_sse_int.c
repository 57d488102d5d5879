// SPDX-License-Identifier: Apache-2.0
/* SSE and SSE2 on integers and bits, and MMX: two registers in, one out, by the host's own instruction. */
#include "hv/cpu/soft/x_simd.h"

#define RUN2(op, a, b)                                                                                       \
    __asm__("movdqu %0, %%xmm0\n\tmovdqu %1, %%xmm1\n\t" op " %%xmm1, %%xmm0\n\tmovdqu %%xmm0, %0"           \
            : "+m"(a)                                                                                        \
            : "m"(b)                                                                                         \
            : "xmm0", "xmm1")

#define SSE(name)                                                                                            \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec b;                                                                                    \
        if (!simd_sse_ok(c) || !simd_load(c, in, 16, true, &b))                                              \
            return soft_fault(c, in);                                                                        \
        RUN2(#name, c->ymm[in->reg], b);                                                                     \
        SOFT_NEXT(c, in);                                                                                    \
    }

/* MMX: the host's SSE2 form on the low half does the same to eight bytes for these. */
#define MMX(name)                                                                                            \
    SOFT_HANDLER(name##_mm)                                                                                  \
    {                                                                                                        \
        union soft_vec a = {0}, b = {0};                                                                     \
        if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &b.u64[0]))                                           \
            return soft_fault(c, in);                                                                        \
        a.u64[0] = simd_mm(c, in->reg);                                                                      \
        RUN2(#name, a, b);                                                                                   \
        simd_mm_put(c, in->reg, a.u64[0]);                                                                   \
        SOFT_NEXT(c, in);                                                                                    \
    }

/* MMX where the halves of the vector meet: by the host's MMX itself. */
#define MMX_OWN(name, size)                                                                                  \
    SOFT_HANDLER(name##_mm)                                                                                  \
    {                                                                                                        \
        uint64_t a, b;                                                                                       \
        if (!simd_mmx_ok(c) || !simd_load_mm(c, in, size, &b))                                               \
            return soft_fault(c, in);                                                                        \
        a = simd_mm(c, in->reg);                                                                             \
        __asm__("movq %0, %%mm0\n\tmovq %1, %%mm1\n\t" #name " %%mm1, %%mm0\n\tmovq %%mm0, %0\n\temms"       \
                : "+m"(a)                                                                                    \
                : "m"(b)                                                                                     \
                : "mm0", "mm1", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");        \
        simd_mm_put(c, in->reg, a);                                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }

#define BOTH(name) SSE(name) MMX(name)

// clang-format off
BOTH(paddb) BOTH(paddw) BOTH(paddd) BOTH(paddq) BOTH(paddsb) BOTH(paddsw) BOTH(paddusb) BOTH(paddusw)
BOTH(psubb) BOTH(psubw) BOTH(psubd) BOTH(psubq) BOTH(psubsb) BOTH(psubsw) BOTH(psubusb) BOTH(psubusw)
BOTH(pand) BOTH(pandn) BOTH(por) BOTH(pxor) BOTH(pcmpeqb) BOTH(pcmpeqw) BOTH(pcmpeqd) BOTH(pcmpgtb)
BOTH(pcmpgtw) BOTH(pcmpgtd) BOTH(pmullw) BOTH(pmulhw) BOTH(pmulhuw) BOTH(pmaddwd) BOTH(pmuludq)
BOTH(psadbw) BOTH(pavgb) BOTH(pavgw) BOTH(pmaxsw) BOTH(pmaxub) BOTH(pminsw) BOTH(pminub) SSE(packsswb)
SSE(packssdw) SSE(packuswb) SSE(punpcklbw) SSE(punpcklwd) SSE(punpckldq) SSE(punpcklqdq) SSE(punpckhbw)
SSE(punpckhwd) SSE(punpckhdq) SSE(punpckhqdq) SSE(psllw) SSE(pslld) SSE(psllq) SSE(psrlw) SSE(psrld)
SSE(psrlq) SSE(psraw) SSE(psrad) MMX_OWN(packsswb, 8) MMX_OWN(packssdw, 8) MMX_OWN(packuswb, 8)
MMX_OWN(punpcklbw, 4) MMX_OWN(punpcklwd, 4) MMX_OWN(punpckldq, 4) MMX_OWN(punpckhbw, 8)
MMX_OWN(punpckhwd, 8) MMX_OWN(punpckhdq, 8) MMX(psllw) MMX(pslld) MMX(psllq) MMX(psrlw) MMX(psrld)
MMX(psrlq) MMX(psraw) MMX(psrad) SSE(andps) SSE(andpd) SSE(andnps) SSE(andnpd) SSE(orps) SSE(orpd)
SSE(xorps) SSE(xorpd) SSE(unpcklps) SSE(unpcklpd) SSE(unpckhps) SSE(unpckhpd)
// clang-format on

/* Shifts of the rm register by an immediate: the count as the second operand of the other form. */
#define SHIFT_IMM(name)                                                                                      \
    SOFT_HANDLER(name##_imm)                                                                                 \
    {                                                                                                        \
        union soft_vec b = {0};                                                                              \
        b.u64[0] = in->imm & 0xff;                                                                           \
        if (!simd_sse_ok(c))                                                                                 \
            return soft_fault(c, in);                                                                        \
        RUN2(#name, c->ymm[in->rm], b);                                                                      \
        SOFT_NEXT(c, in);                                                                                    \
    }                                                                                                        \
    SOFT_HANDLER(name##_imm_mm)                                                                              \
    {                                                                                                        \
        union soft_vec a = {0}, b = {0};                                                                     \
        b.u64[0] = in->imm & 0xff;                                                                           \
        if (!simd_mmx_ok(c))                                                                                 \
            return soft_fault(c, in);                                                                        \
        a.u64[0] = simd_mm(c, in->rm);                                                                       \
        RUN2(#name, a, b);                                                                                   \
        simd_mm_put(c, in->rm, a.u64[0]);                                                                    \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
SHIFT_IMM(psllw) SHIFT_IMM(pslld) SHIFT_IMM(psllq) SHIFT_IMM(psrlw) SHIFT_IMM(psrld) SHIFT_IMM(psrlq)
SHIFT_IMM(psraw) SHIFT_IMM(psrad)
    // clang-format on

    static const struct soft_insn *shift_bytes(struct soft_cpu *c, const struct soft_insn *in, bool left)
{
    if (!simd_sse_ok(c))
        return soft_fault(c, in);
    unsigned n = in->imm & 0xff;
    union soft_vec *v = &c->ymm[in->rm], was = *v;
    for (unsigned i = 0; i < 16; i++) {
        unsigned from = left ? i - n : i + n;
        v->u8[i] = n < 16 && from < 16 ? was.u8[from] : 0;
    }
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pslldq)
{
    return shift_bytes(c, in, true);
}

SOFT_HANDLER(psrldq)
{
    return shift_bytes(c, in, false);
}

SOFT_HANDLER(pshufd)
{
    union soft_vec b;
    if (!simd_sse_ok(c) || !simd_load(c, in, 16, true, &b))
        return soft_fault(c, in);
    for (unsigned i = 0; i < 4; i++)
        c->ymm[in->reg].u32[i] = b.u32[in->imm >> (2 * i) & 3];
    SOFT_NEXT(c, in);
}

static const struct soft_insn *shuffle_words(struct soft_cpu *c, const struct soft_insn *in, unsigned half)
{
    union soft_vec b;
    if (!simd_sse_ok(c) || !simd_load(c, in, 16, true, &b))
        return soft_fault(c, in);
    union soft_vec *a = &c->ymm[in->reg];
    a->u64[!half] = b.u64[!half];
    for (unsigned i = 0; i < 4; i++)
        a->u16[half * 4 + i] = b.u16[half * 4 + (in->imm >> (2 * i) & 3)];
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pshuflw)
{
    return shuffle_words(c, in, 0);
}

SOFT_HANDLER(pshufhw)
{
    return shuffle_words(c, in, 1);
}

SOFT_HANDLER(pshufw)
{
    union soft_vec b = {0}, r = {0};
    if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &b.u64[0]))
        return soft_fault(c, in);
    for (unsigned i = 0; i < 4; i++)
        r.u16[i] = b.u16[in->imm >> (2 * i) & 3];
    simd_mm_put(c, in->reg, r.u64[0]);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(shufps)
{
    union soft_vec b, a;
    if (!simd_sse_ok(c) || !simd_load(c, in, 16, true, &b))
        return soft_fault(c, in);
    a = c->ymm[in->reg];
    for (unsigned i = 0; i < 4; i++)
        c->ymm[in->reg].u32[i] = (i < 2 ? a : b).u32[in->imm >> (2 * i) & 3];
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(shufpd)
{
    union soft_vec b, a;
    if (!simd_sse_ok(c) || !simd_load(c, in, 16, true, &b))
        return soft_fault(c, in);
    a = c->ymm[in->reg];
    c->ymm[in->reg].u64[0] = a.u64[in->imm & 1];
    c->ymm[in->reg].u64[1] = b.u64[in->imm >> 1 & 1];
    SOFT_NEXT(c, in);
}

/* --- between vectors and integer registers --- */

static void put_gpr32(struct soft_cpu *c, unsigned n, uint32_t v)
{
    c->gpr[n] = v;
}

static uint32_t byte_signs(const uint8_t *v, unsigned n)
{
    uint32_t r = 0;
    for (unsigned i = 0; i < n; i++)
        r |= (uint32_t)(v[i] >> 7) << i;
    return r;
}

SOFT_HANDLER(pmovmskb)
{
    if (!simd_sse_ok(c))
        return soft_fault(c, in);
    put_gpr32(c, in->reg, byte_signs(c->ymm[in->rm].u8, 16));
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pmovmskb_mm)
{
    if (!simd_mmx_ok(c))
        return soft_fault(c, in);
    put_gpr32(c, in->reg, byte_signs(c->fpu.st[in->rm & 7], 8));
    simd_mm_enter(c);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movmskps)
{
    if (!simd_sse_ok(c))
        return soft_fault(c, in);
    uint32_t r = 0;
    for (unsigned i = 0; i < 4; i++)
        r |= c->ymm[in->rm].u32[i] >> 31 << i;
    put_gpr32(c, in->reg, r);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(movmskpd)
{
    if (!simd_sse_ok(c))
        return soft_fault(c, in);
    put_gpr32(c, in->reg, (uint32_t)(c->ymm[in->rm].u64[0] >> 63 | c->ymm[in->rm].u64[1] >> 63 << 1));
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pextrw)
{
    if (!simd_sse_ok(c))
        return soft_fault(c, in);
    put_gpr32(c, in->reg, c->ymm[in->rm].u16[in->imm & 7]);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pextrw_mm)
{
    if (!simd_mmx_ok(c))
        return soft_fault(c, in);
    put_gpr32(c, in->reg, (uint16_t)(simd_mm(c, in->rm) >> (in->imm & 3) * 16));
    simd_mm_enter(c);
    SOFT_NEXT(c, in);
}

static bool word_operand(struct soft_cpu *c, const struct soft_insn *in, uint16_t *v)
{
    uint64_t lin;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, 2, SOFT_READ, &lin) && soft_ld16(c, lin, v);
    *v = (uint16_t)c->gpr[in->rm];
    return true;
}

SOFT_HANDLER(pinsrw)
{
    uint16_t v;
    if (!simd_sse_ok(c) || !word_operand(c, in, &v))
        return soft_fault(c, in);
    c->ymm[in->reg].u16[in->imm & 7] = v;
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pinsrw_mm)
{
    uint16_t v;
    if (!simd_mmx_ok(c) || !word_operand(c, in, &v))
        return soft_fault(c, in);
    unsigned at = (in->imm & 3) * 16;
    simd_mm_put(c, in->reg, (simd_mm(c, in->reg) & ~(0xffffull << at)) | (uint64_t)v << at);
    SOFT_NEXT(c, in);
}
