// SPDX-License-Identifier: Apache-2.0
/* SSE to SSE4.1 floating point and the AVX forms: the host's instruction with the guest's MXCSR, exceptions
 * masked, its flags looked at afterwards. A 256-bit form is the 128-bit one on each lane. */
#include <string.h>

#include "hv/cpu/soft/x_simd.h"

/* bytes: of a scalar, 0 for vectors. */
#define FP(name, bytes)                                                                                      \
    SIMD_OP(name, #name " %%xmm1, %%xmm0")                                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        return simd_run(c, in, op_##name, bytes, true);                                                      \
    }
#define FP4(op) FP(op##ps, 0) FP(op##pd, 0) FP(op##ss, 4) FP_SD(op)
#define FP_SD(op) FP(op##sd, 8)

// clang-format off
FP4(add) FP4(sub) FP4(mul) FP4(div) FP4(min) FP4(max) FP4(sqrt) FP(rcpps, 0) FP(rcpss, 4) FP(rsqrtps, 0)
FP(rsqrtss, 4) FP(cvtss2sd, 4) FP(cvtdq2ps, 0) FP(cvtps2dq, 0) FP(cvttps2dq, 0) FP(haddps, 0) FP(haddpd, 0)
FP(hsubps, 0) FP(hsubpd, 0) FP(addsubps, 0) FP(addsubpd, 0) FP(cvtsd2ss, 8);
// clang-format on

/* Elements become twice as wide: 8 bytes of the source make a lane. */
#define WIDER(name)                                                                                          \
    SIMD_OP(name, #name " %%xmm1, %%xmm0")                                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room, r;                                                                              \
        struct soft_lane half = {{0, 0}}, other = half;                                                      \
        struct simd_fp f = {0, 0, 0};                                                                        \
        bool wide = in->flags & SOFT_I_VL256;                                                                \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, wide ? 16 : 8, 0, &room);                                   \
        if (!b)                                                                                              \
            return false;                                                                                    \
        half.q[0] = b->u64[0];                                                                               \
        if (wide)                                                                                            \
            other.q[0] = b->u64[1];                                                                          \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            op_##name(&r.lane[0], &half);                                                                    \
            simd_fp_lane(c, &f);                                                                             \
            op_##name(&r.lane[1], &other);                                                                   \
        }                                                                                                    \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        simd_put(c, in, in->reg, wide, &r);                                                                  \
        return true;                                                                                         \
    }
WIDER(cvtps2pd);
WIDER(cvtdq2pd);

/* Elements become half as wide: a lane makes 8 bytes. */
#define NARROWER(name)                                                                                       \
    SIMD_OP(name, #name " %%xmm1, %%xmm0")                                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room, r = {0};                                                                        \
        struct simd_fp f = {0, 0, 0};                                                                        \
        bool wide = in->flags & SOFT_I_VL256;                                                                \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, simd_vl(in), simd_align(in), &room);                        \
        if (!b)                                                                                              \
            return false;                                                                                    \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            op_##name(&r.lane[0], &b->lane[0]);                                                              \
            if (wide) {                                                                                      \
                simd_fp_lane(c, &f);                                                                         \
                op_##name(&r.lane[1], &b->lane[1]);                                                          \
            }                                                                                                \
        }                                                                                                    \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        r.u64[1] = wide ? r.u64[2] : 0;                                                                      \
        simd_put(c, in, in->reg, false, &r);                                                                 \
        return true;                                                                                         \
    }
NARROWER(cvtpd2ps);
NARROWER(cvttpd2dq);
NARROWER(cvtpd2dq);

/* --- with an immediate --- */

/* Bits of the immediate that choose; the AVX predicates are 32. */
#define COMPARE_IMM(handler, v_handler, name, bytes)                                                         \
    SIMD_IMM(name, 8, #name " $simd_i, %xmm1, %xmm0");                                                       \
    SIMD_IMM(v##name, 32, "v" #name " $simd_i, %xmm1, %xmm0, %xmm0");                                        \
    SIMD_DO(handler)                                                                                         \
    {                                                                                                        \
        simd_op *op = simd_vex(in) ? SIMD_IMM_OP(v##name, in->imm & 31) : SIMD_IMM_OP(name, in->imm & 7);    \
        return simd_run(c, in, op, bytes, true);                                                             \
    }                                                                                                        \
    SIMD_IS(handler, handler)                                                                                \
    SIMD_IS(v_handler, handler)
COMPARE_IMM(cmpps, vcmpps, cmpps, 0);
COMPARE_IMM(cmppd, vcmppd, cmppd, 0);
COMPARE_IMM(cmpss, vcmpss, cmpss, 4);
COMPARE_IMM(cmpsd_x, vcmpsd, cmpsd, 8);

#define FP_IMM(name, bytes, mask, count)                                                                     \
    SIMD_IMM(name, count, #name " $simd_i, %xmm1, %xmm0");                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        return simd_run(c, in, SIMD_IMM_OP(name, in->imm & (mask)), bytes, true);                            \
    }
FP_IMM(roundps, 0, 15, 16);
FP_IMM(roundpd, 0, 15, 16);
FP_IMM(roundss, 4, 15, 16);
FP_IMM(roundsd, 8, 15, 16);
FP_IMM(dppd, 0, 0x33, 52);

/* A dot product has steps, whose exceptions come one after the other for all lanes: the wide form is done as
 * one. Its functions are like SIMD_IMM's, on 32 bytes. */
SIMD_IMM(dpps, 256, "dpps $simd_i, %xmm1, %xmm0");
extern const uint8_t simd_wide_dpps[] __asm__("simd_wide_dpps");
__asm__(".pushsection .text\n.balign 32\nsimd_wide_dpps:\n.set simd_i, 0\n.rept 256\n.balign 32\n"
        "vmovdqu (%rdi), %ymm0\nvdpps $simd_i, (%rsi), %ymm0, %ymm0\nvmovdqu %ymm0, (%rdi)\nvzeroupper\n"
        "ret\n.set simd_i, simd_i + 1\n.endr\n.popsection\n");

SIMD_PAIR(dpps)
{
    union soft_vec room, a;
    struct simd_fp f = {0, 0, 0};
    if (!(in->flags & SOFT_I_VL256))
        return simd_run(c, in, SIMD_IMM_OP(dpps, in->imm & 0xff), 0, true);
    if (!simd_avx_ok(c))
        return false;
    const union soft_vec *b = simd_rm(c, in, 32, 0, &room);
    if (!b)
        return false;
    SIMD_FP(c, f)
    {
        a = c->ymm[in->vvvv];
        ((simd_op *)(uintptr_t)(simd_wide_dpps + 32 * (in->imm & 0xff)))(&a.lane[0], &b->lane[0]);
    }
    if (!simd_fp_done(c, &f))
        return false;
    simd_put(c, in, in->reg, true, &a);
    return true;
}

/* --- comparisons to flags --- */

#define COMPARE(name, bytes)                                                                                 \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room;                                                                                 \
        struct simd_fp f = {0, 0, 0};                                                                        \
        uint8_t zf = 0, pf = 0, cf = 0;                                                                      \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, bytes, 0, &room);                                           \
        if (!b)                                                                                              \
            return false;                                                                                    \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            __asm__ volatile("movups %[a], %%xmm0\n\tmovups %[b], %%xmm1\n\t" #name                          \
                             " %%xmm1, %%xmm0\n\tsetz %[z]\n\tsetp %[p]\n\tsetc %[c]"                        \
                             : [z] "=q"(zf), [p] "=q"(pf), [c] "=q"(cf)                                      \
                             : [a] "m"(c->ymm[in->reg].lane[0]), [b] "m"(b->lane[0])                         \
                             : "xmm0", "xmm1", "cc");                                                        \
        }                                                                                                    \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        soft_cc_set(&c->cc, (uint32_t)cf | (uint32_t)pf << 2 | (uint32_t)zf << 6);                           \
        return true;                                                                                         \
    }

// clang-format off
COMPARE(ucomiss, 4) COMPARE(ucomisd, 8) COMPARE(comiss, 4) COMPARE(comisd, 8);
// clang-format on

/* --- with integer registers --- */

#define TO_INT(name, bytes)                                                                                  \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room;                                                                                 \
        struct simd_fp f = {0, 0, 0};                                                                        \
        uint64_t r = 0;                                                                                      \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, bytes, 0, &room);                                           \
        if (!b)                                                                                              \
            return false;                                                                                    \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            if (in->size == 8)                                                                               \
                __asm__ volatile("movups %[b], %%xmm0\n\t" #name " %%xmm0, %q[r]"                            \
                                 : [r] "=r"(r)                                                               \
                                 : [b] "m"(b->lane[0])                                                       \
                                 : "xmm0");                                                                  \
            else                                                                                             \
                __asm__ volatile("movups %[b], %%xmm0\n\t" #name " %%xmm0, %k[r]"                            \
                                 : [r] "=r"(r)                                                               \
                                 : [b] "m"(b->lane[0])                                                       \
                                 : "xmm0");                                                                  \
        }                                                                                                    \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        c->gpr[in->reg] = r;                                                                                 \
        return true;                                                                                         \
    }

// clang-format off
TO_INT(cvtss2si, 4) TO_INT(cvttss2si, 4) TO_INT(cvtsd2si, 8) TO_INT(cvttsd2si, 8);
// clang-format on

#define FROM_INT(name)                                                                                       \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec a;                                                                                    \
        struct simd_fp f = {0, 0, 0};                                                                        \
        uint64_t lin, v = 0;                                                                                 \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        if (!(in->flags & SOFT_I_MEM))                                                                       \
            v = c->gpr[in->rm];                                                                              \
        else if (!soft_ea(c, in, in->size, SOFT_READ, &lin) || !soft_ld(c, lin, in->size, &v))               \
            return false;                                                                                    \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            a = c->ymm[simd_first(in)];                                                                      \
            if (in->size == 8)                                                                               \
                __asm__ volatile("movups %[a], %%xmm0\n\t" #name "q %[v], %%xmm0\n\tmovups %%xmm0, %[a]"     \
                                 : [a] "+m"(a.lane[0])                                                       \
                                 : [v] "r"(v)                                                                \
                                 : "xmm0");                                                                  \
            else                                                                                             \
                __asm__ volatile("movups %[a], %%xmm0\n\t" #name "l %k[v], %%xmm0\n\tmovups %%xmm0, %[a]"    \
                                 : [a] "+m"(a.lane[0])                                                       \
                                 : [v] "r"(v)                                                                \
                                 : "xmm0");                                                                  \
        }                                                                                                    \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        simd_put(c, in, in->reg, false, &a);                                                                 \
        return true;                                                                                         \
    }

// clang-format off
FROM_INT(cvtsi2ss) FROM_INT(cvtsi2sd);
// clang-format on

/* --- MXCSR --- */

SIMD_PAIR(ldmxcsr)
{
    uint64_t lin;
    uint32_t v;
    if (!simd_ok(c, in) || !soft_ea(c, in, 4, SOFT_READ, &lin) || !soft_ld32(c, lin, &v))
        return false;
    if (v & ~0xffffu) {
        soft_exc_error(c, SOFT_GP, 0);
        return false;
    }
    c->mxcsr = v;
    return true;
}

SIMD_PAIR(stmxcsr)
{
    uint64_t lin;
    return simd_ok(c, in) && soft_ea(c, in, 4, SOFT_WRITE, &lin) && soft_st32(c, lin, c->mxcsr);
}

/* --- with MMX registers --- */

#define HOST_FPU "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"

/* Two integers of an MMX register or memory to floating point. CVTPI2PD of memory leaves the x87 alone (SDM
 * 2A). */
#define FROM_MM(name)                                                                                        \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec a;                                                                                    \
        uint64_t b;                                                                                          \
        struct simd_fp f = {0, 0, 0};                                                                        \
        bool mm = !(in->flags & SOFT_I_MEM);                                                                 \
        if (!simd_sse_ok(c) || (mm && !simd_mmx_ok(c)) || !simd_load_mm(c, in, 8, &b))                       \
            return false;                                                                                    \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            a = c->ymm[in->reg];                                                                             \
            __asm__ volatile("movups %[a], %%xmm0\n\tmovq %[b], %%mm0\n\t" #name                             \
                             " %%mm0, %%xmm0\n\temms\n\tmovups %%xmm0, %[a]"                                 \
                             : [a] "+m"(a.lane[0])                                                           \
                             : [b] "m"(b)                                                                    \
                             : "xmm0", "mm0", HOST_FPU);                                                     \
        }                                                                                                    \
        if (mm)                                                                                              \
            simd_mm_enter(c);                                                                                \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        __builtin_memcpy(&c->ymm[in->reg], &a, 16);                                                          \
        return true;                                                                                         \
    }

/* The low bytes of the rm operand, the rest zero. */
static bool load(struct soft_cpu *c, const struct soft_insn *in, unsigned bytes, union soft_vec *v)
{
    memset(v, 0, sizeof *v);
    if (in->flags & SOFT_I_MEM)
        return simd_load(c, in, bytes, bytes == 16 ? 16 : 0, v);
    memcpy(v, &c->ymm[in->rm], bytes);
    return true;
}

#define TO_MM(name, bytes)                                                                                   \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec b;                                                                                    \
        uint64_t r = 0;                                                                                      \
        struct simd_fp f = {0, 0, 0};                                                                        \
        if (!simd_sse_ok(c) || !simd_mmx_ok(c) || !load(c, in, bytes, &b))                                   \
            return false;                                                                                    \
        SIMD_FP(c, f)                                                                                        \
        {                                                                                                    \
            __asm__ volatile("movups %[b], %%xmm0\n\t" #name " %%xmm0, %%mm0\n\tmovq %%mm0, %[r]\n\temms"    \
                             : [r] "=m"(r)                                                                   \
                             : [b] "m"(b.lane[0])                                                            \
                             : "xmm0", "mm0", HOST_FPU);                                                     \
        }                                                                                                    \
        simd_mm_enter(c);                                                                                    \
        if (!simd_fp_done(c, &f))                                                                            \
            return false;                                                                                    \
        simd_mm_put(c, in->reg, r);                                                                          \
        return true;                                                                                         \
    }

// clang-format off
FROM_MM(cvtpi2ps) FROM_MM(cvtpi2pd)
TO_MM(cvtps2pi, 8) TO_MM(cvttps2pi, 8) TO_MM(cvtpd2pi, 16) TO_MM(cvttpd2pi, 16);
// clang-format on
