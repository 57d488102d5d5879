// SPDX-License-Identifier: Apache-2.0
/* SSE to SSE4.2 and AES on integers and bits, their AVX and AVX2 forms, and MMX: two registers in, one out,
 * by the host's own instruction. A 256-bit form is the 128-bit one on each lane. */
#include "hv/cpu/soft/x_simd.h"

#define SSE(name)                                                                                            \
    SIMD_OP(name, #name " %%xmm1, %%xmm0")                                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        return simd_run(c, in, op_##name, 0, false);                                                         \
    }

/* MMX: the host's SSE2 form on the low half does the same to eight bytes for these. */
#define MMX(name)                                                                                            \
    SIMD_HANDLER(name##_mm)                                                                                  \
    {                                                                                                        \
        union soft_vec a = {0}, b = {0};                                                                     \
        if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &b.u64[0]))                                           \
            return false;                                                                                    \
        a.u64[0] = simd_mm(c, in->reg);                                                                      \
        op_##name(&a.lane[0], &b.lane[0]);                                                                   \
        simd_mm_put(c, in->reg, a.u64[0]);                                                                   \
        return true;                                                                                         \
    }

/* MMX where the halves of the vector meet: by the host's MMX itself. */
#define MMX_OWN(name, size)                                                                                  \
    SIMD_HANDLER(name##_mm)                                                                                  \
    {                                                                                                        \
        uint64_t a, b;                                                                                       \
        if (!simd_mmx_ok(c) || !simd_load_mm(c, in, size, &b))                                               \
            return false;                                                                                    \
        a = simd_mm(c, in->reg);                                                                             \
        __asm__("movq %0, %%mm0\n\tmovq %1, %%mm1\n\t" #name " %%mm1, %%mm0\n\tmovq %%mm0, %0\n\temms"       \
                : "+m"(a)                                                                                    \
                : "m"(b)                                                                                     \
                : "mm0", "mm1", "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)");        \
        simd_mm_put(c, in->reg, a);                                                                          \
        return true;                                                                                         \
    }

#define BOTH(name) SSE(name) MMX(name)

// clang-format off
BOTH(paddb) BOTH(paddw) BOTH(paddd) BOTH(paddq) BOTH(paddsb) BOTH(paddsw) BOTH(paddusb) BOTH(paddusw)
BOTH(psubb) BOTH(psubw) BOTH(psubd) BOTH(psubq) BOTH(psubsb) BOTH(psubsw) BOTH(psubusb) BOTH(psubusw)
BOTH(pand) BOTH(pandn) BOTH(por) BOTH(pxor) BOTH(pcmpeqb) BOTH(pcmpeqw) BOTH(pcmpeqd) BOTH(pcmpgtb)
BOTH(pcmpgtw) BOTH(pcmpgtd) BOTH(pmullw) BOTH(pmulhw) BOTH(pmulhuw) BOTH(pmaddwd) BOTH(pmuludq) BOTH(psadbw)
BOTH(pavgb) BOTH(pavgw) BOTH(pmaxsw) BOTH(pmaxub) BOTH(pminsw) BOTH(pminub)
SSE(packsswb) SSE(packssdw) SSE(packuswb) SSE(punpcklbw) SSE(punpcklwd) SSE(punpckldq) SSE(punpcklqdq)
SSE(punpckhbw) SSE(punpckhwd) SSE(punpckhdq) SSE(punpckhqdq) SSE(andps) SSE(andpd) SSE(andnps) SSE(andnpd)
SSE(orps) SSE(orpd) SSE(xorps) SSE(xorpd) SSE(unpcklps) SSE(unpcklpd) SSE(unpckhps) SSE(unpckhpd)
SSE(movsldup) SSE(movshdup) SSE(pmuldq) SSE(pcmpeqq) SSE(packusdw) SSE(pminsb) SSE(pminsd) SSE(pminuw)
SSE(pminud) SSE(pmaxsb) SSE(pmaxsd) SSE(pmaxuw) SSE(pmaxud) SSE(pmulld) SSE(phminposuw) SSE(pcmpgtq)
SSE(aesimc) SSE(aesenc) SSE(aesenclast) SSE(aesdec) SSE(aesdeclast) SSE(pshufb) SSE(phaddw) SSE(phaddd)
SSE(phaddsw) SSE(pmaddubsw) SSE(phsubw) SSE(phsubd) SSE(phsubsw) SSE(psignb) SSE(psignw) SSE(psignd)
SSE(pmulhrsw) SSE(pabsb) SSE(pabsw) SSE(pabsd)
MMX_OWN(packsswb, 8) MMX_OWN(packssdw, 8) MMX_OWN(packuswb, 8) MMX_OWN(punpcklbw, 4) MMX_OWN(punpcklwd, 4)
MMX_OWN(punpckldq, 4) MMX_OWN(punpckhbw, 8) MMX_OWN(punpckhwd, 8) MMX_OWN(punpckhdq, 8) MMX_OWN(pshufb, 8)
MMX_OWN(phaddw, 8) MMX_OWN(phaddd, 8) MMX_OWN(phaddsw, 8) MMX_OWN(pmaddubsw, 8) MMX_OWN(phsubw, 8)
MMX_OWN(phsubd, 8) MMX_OWN(phsubsw, 8) MMX_OWN(psignb, 8) MMX_OWN(psignw, 8) MMX_OWN(psignd, 8)
MMX_OWN(pmulhrsw, 8) MMX_OWN(pabsb, 8) MMX_OWN(pabsw, 8) MMX_OWN(pabsd, 8);
// clang-format on

/* Shifts of all elements by one count, which is 64 bits of the rm operand whatever the vector's length, or an
 * immediate. Immediate forms: the destination of a legacy one is rm, of a VEX one vvvv. */
#define SHIFT(name)                                                                                          \
    SIMD_OP(name, #name " %%xmm1, %%xmm0")                                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room, a;                                                                              \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, 16, simd_align(in), &room);                                 \
        if (!b)                                                                                              \
            return false;                                                                                    \
        a = c->ymm[simd_first(in)];                                                                          \
        op_##name(&a.lane[0], &b->lane[0]);                                                                  \
        op_##name(&a.lane[1], &b->lane[0]);                                                                  \
        simd_put(c, in, in->reg, in->flags &SOFT_I_VL256, &a);                                               \
        return true;                                                                                         \
    }                                                                                                        \
    SIMD_PAIR(name##_imm)                                                                                    \
    {                                                                                                        \
        union soft_vec a;                                                                                    \
        struct soft_lane b = {{in->imm & 0xff, 0}};                                                          \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        a = c->ymm[in->rm];                                                                                  \
        op_##name(&a.lane[0], &b);                                                                           \
        op_##name(&a.lane[1], &b);                                                                           \
        simd_put(c, in, simd_vex(in) ? in->vvvv : in->rm, in->flags &SOFT_I_VL256, &a);                      \
        return true;                                                                                         \
    }                                                                                                        \
    MMX(name)                                                                                                \
    SIMD_HANDLER(name##_imm_mm)                                                                              \
    {                                                                                                        \
        union soft_vec a = {0}, b = {0};                                                                     \
        b.u64[0] = in->imm & 0xff;                                                                           \
        if (!simd_mmx_ok(c))                                                                                 \
            return false;                                                                                    \
        a.u64[0] = simd_mm(c, in->rm);                                                                       \
        op_##name(&a.lane[0], &b.lane[0]);                                                                   \
        simd_mm_put(c, in->rm, a.u64[0]);                                                                    \
        return true;                                                                                         \
    }

// clang-format off
SHIFT(psllw) SHIFT(pslld) SHIFT(psllq) SHIFT(psrlw) SHIFT(psrld) SHIFT(psrlq) SHIFT(psraw) SHIFT(psrad);
// clang-format on

static bool shift_bytes(struct soft_cpu *c, const struct soft_insn *in, bool left)
{
    if (!simd_ok(c, in))
        return false;
    unsigned n = in->imm & 0xff;
    union soft_vec was = c->ymm[in->rm], v;
    for (unsigned i = 0; i < 32; i++) {
        unsigned from = left ? (i & 15) - n : (i & 15) + n;
        v.u8[i] = n < 16 && from < 16 ? was.u8[(i & 16) + from] : 0;
    }
    simd_put(c, in, simd_vex(in) ? in->vvvv : in->rm, in->flags & SOFT_I_VL256, &v);
    return true;
}

SIMD_PAIR(pslldq)
{
    return shift_bytes(c, in, true);
}

SIMD_PAIR(psrldq)
{
    return shift_bytes(c, in, false);
}
