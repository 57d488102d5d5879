// SPDX-License-Identifier: Apache-2.0
/* SSE and SSE2 floating point: the host's instruction with the guest's MXCSR, exceptions masked, its flags
 * looked at afterwards. */
#include "hv/cpu/soft/x_simd.h"

#define WITH_MXCSR(op)                                                                                       \
    "stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[a], %%xmm0\n\tmovups %[b], %%xmm1\n\t" op                   \
    "\n\tmovups %%xmm0, %[a]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"

/* a = a op b; `b` holds what was loaded. */
#define FP(name, bytes, aligned)                                                                             \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec a, b;                                                                                 \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        if (!simd_sse_ok(c) || !simd_load(c, in, bytes, aligned, &b))                                        \
            return soft_fault(c, in);                                                                        \
        a = c->ymm[in->reg];                                                                                 \
        __asm__ volatile(WITH_MXCSR(#name " %%xmm1, %%xmm0")                                                 \
                         : [a] "+m"(a), [m] "+m"(m), [host] "=m"(host)                                       \
                         : [b] "m"(b)                                                                        \
                         : "xmm0", "xmm1");                                                                  \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        __builtin_memcpy(&c->ymm[in->reg], &a, 16);                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }
#define FP4(op) FP(op##ps, 16, true) FP(op##pd, 16, true) FP(op##ss, 4, false) FP_SD(op)
#define FP_SD(op) FP(op##sd, 8, false)

// clang-format off
FP4(add) FP4(sub) FP4(mul) FP4(div) FP4(min) FP4(max) FP4(sqrt) FP(rcpps, 16, true) FP(rcpss, 4, false)
FP(rsqrtps, 16, true) FP(rsqrtss, 4, false) FP(cvtps2pd, 8, false) FP(cvtpd2ps, 16, true)
FP(cvtss2sd, 4, false) FP(cvtsd2ss, 8, false) FP(cvtdq2ps, 16, true) FP(cvtps2dq, 16, true)
FP(cvttps2dq, 16, true) FP(cvttpd2dq, 16, true) FP(cvtdq2pd, 8, false) FP(cvtpd2dq, 16, true)
// clang-format on

/* --- comparisons --- */

#define CMP_CASE(name, n)                                                                                    \
    case n:                                                                                                  \
        __asm__ volatile(WITH_MXCSR(name " $" #n ", %%xmm1, %%xmm0")                                         \
                         : [a] "+m"(a), [m] "+m"(m), [host] "=m"(host)                                       \
                         : [b] "m"(b)                                                                        \
                         : "xmm0", "xmm1");                                                                  \
        break;
#define CMP(handler, name, bytes, aligned)                                                                   \
    SOFT_HANDLER(handler)                                                                                    \
    {                                                                                                        \
        union soft_vec a, b;                                                                                 \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        if (!simd_sse_ok(c) || !simd_load(c, in, bytes, aligned, &b))                                        \
            return soft_fault(c, in);                                                                        \
        a = c->ymm[in->reg];                                                                                 \
        switch (in->imm & 7) {                                                                               \
            CMP_CASE(name, 0)                                                                                \
            CMP_CASE(name, 1)                                                                                \
            CMP_CASE(name, 2)                                                                                \
            CMP_CASE(name, 3)                                                                                \
            CMP_CASE(name, 4)                                                                                \
            CMP_CASE(name, 5)                                                                                \
            CMP_CASE(name, 6)                                                                                \
            CMP_CASE(name, 7)                                                                                \
        }                                                                                                    \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        __builtin_memcpy(&c->ymm[in->reg], &a, 16);                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
CMP(cmpps, "cmpps", 16, true) CMP(cmppd, "cmppd", 16, true) CMP(cmpss, "cmpss", 4, false)
CMP(cmpsd_x, "cmpsd", 8, false)
// clang-format on

#define COMPARE(name, bytes)                                                                                 \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec a, b;                                                                                 \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        uint8_t zf, pf, cf;                                                                                  \
        if (!simd_sse_ok(c) || !simd_load(c, in, bytes, false, &b))                                          \
            return soft_fault(c, in);                                                                        \
        a = c->ymm[in->reg];                                                                                 \
        __asm__ volatile(                                                                                    \
            "stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[a], %%xmm0\n\tmovups %[b], %%xmm1\n\t" #name        \
            " %%xmm1, %%xmm0\n\tsetz %[z]\n\tsetp %[p]\n\tsetc %[c]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"      \
            : [m] "+m"(m), [host] "=m"(host), [z] "=q"(zf), [p] "=q"(pf), [c] "=q"(cf)                       \
            : [a] "m"(a), [b] "m"(b)                                                                         \
            : "xmm0", "xmm1", "cc");                                                                         \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        soft_cc_set(&c->cc, (uint32_t)cf | (uint32_t)pf << 2 | (uint32_t)zf << 6);                           \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
COMPARE(ucomiss, 4) COMPARE(ucomisd, 8) COMPARE(comiss, 4) COMPARE(comisd, 8)
// clang-format on

/* --- with integer registers --- */

#define TO_INT(name, bytes)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec b;                                                                                    \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        uint64_t r;                                                                                          \
        if (!simd_sse_ok(c) || !simd_load(c, in, bytes, false, &b))                                          \
            return soft_fault(c, in);                                                                        \
        if (in->flags & SOFT_I_REXW)                                                                         \
            __asm__ volatile("stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[b], %%xmm0\n\t" #name              \
                             " %%xmm0, %q[r]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"                             \
                             : [m] "+m"(m), [host] "=m"(host), [r] "=r"(r)                                   \
                             : [b] "m"(b)                                                                    \
                             : "xmm0");                                                                      \
        else                                                                                                 \
            __asm__ volatile("stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[b], %%xmm0\n\t" #name              \
                             " %%xmm0, %k[r]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"                             \
                             : [m] "+m"(m), [host] "=m"(host), [r] "=r"(r)                                   \
                             : [b] "m"(b)                                                                    \
                             : "xmm0");                                                                      \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        c->gpr[in->reg] = r;                                                                                 \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
TO_INT(cvtss2si, 4) TO_INT(cvttss2si, 4) TO_INT(cvtsd2si, 8) TO_INT(cvttsd2si, 8)
// clang-format on

#define FROM_INT(name)                                                                                       \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec a;                                                                                    \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        uint64_t lin, v = 0;                                                                                 \
        unsigned size = in->flags & SOFT_I_REXW ? 8 : 4;                                                     \
        if (!simd_sse_ok(c))                                                                                 \
            return soft_fault(c, in);                                                                        \
        if (!(in->flags & SOFT_I_MEM))                                                                       \
            v = c->gpr[in->rm];                                                                              \
        else if (!soft_ea(c, in, size, SOFT_READ, &lin) || !soft_ld(c, lin, size, &v))                       \
            return soft_fault(c, in);                                                                        \
        a = c->ymm[in->reg];                                                                                 \
        if (size == 8)                                                                                       \
            __asm__ volatile("stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[a], %%xmm0\n\t" #name              \
                             "q %[v], %%xmm0\n\tmovups %%xmm0, %[a]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"      \
                             : [m] "+m"(m), [host] "=m"(host), [a] "+m"(a)                                   \
                             : [v] "r"(v)                                                                    \
                             : "xmm0");                                                                      \
        else                                                                                                 \
            __asm__ volatile("stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[a], %%xmm0\n\t" #name              \
                             "l %k[v], %%xmm0\n\tmovups %%xmm0, %[a]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"     \
                             : [m] "+m"(m), [host] "=m"(host), [a] "+m"(a)                                   \
                             : [v] "r"(v)                                                                    \
                             : "xmm0");                                                                      \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        __builtin_memcpy(&c->ymm[in->reg], &a, 16);                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }

    // clang-format off
FROM_INT(cvtsi2ss) FROM_INT(cvtsi2sd)
    // clang-format on

    /* --- MXCSR --- */

    // clang-format off
SOFT_HANDLER(ldmxcsr)
// clang-format on

{
    uint64_t lin;
    uint32_t v;
    if (!simd_sse_ok(c) || !soft_ea(c, in, 4, SOFT_READ, &lin) || !soft_ld32(c, lin, &v))
        return soft_fault(c, in);
    if (v & ~0xffffu)
        return soft_raise_error(c, in, SOFT_GP, 0);
    c->mxcsr = v;
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(stmxcsr)
{
    uint64_t lin;
    if (!simd_sse_ok(c) || !soft_ea(c, in, 4, SOFT_WRITE, &lin) || !soft_st32(c, lin, c->mxcsr))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

/* --- with MMX registers --- */

#define HOST_FPU "st", "st(1)", "st(2)", "st(3)", "st(4)", "st(5)", "st(6)", "st(7)"

/* Two integers of an MMX register or memory to floating point. CVTPI2PD of memory leaves the x87 alone (SDM
 * 2A). */
#define FROM_MM(name)                                                                                        \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec a;                                                                                    \
        uint64_t b;                                                                                          \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        bool mm = !(in->flags & SOFT_I_MEM);                                                                 \
        if (!simd_sse_ok(c) || (mm && !simd_mmx_ok(c)) || !simd_load_mm(c, in, 8, &b))                       \
            return soft_fault(c, in);                                                                        \
        a = c->ymm[in->reg];                                                                                 \
        __asm__ volatile(                                                                                    \
            "stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[a], %%xmm0\n\tmovq %[b], %%mm0\n\t" #name           \
            " %%mm0, %%xmm0\n\temms\n\tmovups %%xmm0, %[a]\n\tstmxcsr %[m]\n\tldmxcsr %[host]"               \
            : [m] "+m"(m), [host] "=m"(host), [a] "+m"(a)                                                    \
            : [b] "m"(b)                                                                                     \
            : "xmm0", "mm0", HOST_FPU);                                                                      \
        if (mm)                                                                                              \
            simd_mm_enter(c);                                                                                \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        __builtin_memcpy(&c->ymm[in->reg], &a, 16);                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }

#define TO_MM(name, bytes)                                                                                   \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec b;                                                                                    \
        uint64_t r;                                                                                          \
        uint32_t host, m = SIMD_MASKED(c->mxcsr);                                                            \
        if (!simd_sse_ok(c) || !simd_mmx_ok(c) || !simd_load(c, in, bytes, bytes == 16, &b))                 \
            return soft_fault(c, in);                                                                        \
        __asm__ volatile("stmxcsr %[host]\n\tldmxcsr %[m]\n\tmovups %[b], %%xmm0\n\t" #name                  \
                         " %%xmm0, %%mm0\n\tmovq %%mm0, %[r]\n\temms\n\tstmxcsr %[m]\n\tldmxcsr %[host]"     \
                         : [m] "+m"(m), [host] "=m"(host), [r] "=m"(r)                                       \
                         : [b] "m"(b)                                                                        \
                         : "xmm0", "mm0", HOST_FPU);                                                         \
        simd_mm_enter(c);                                                                                    \
        if (!simd_fp_done(c, m))                                                                             \
            return soft_fault(c, in);                                                                        \
        simd_mm_put(c, in->reg, r);                                                                          \
        SOFT_NEXT(c, in);                                                                                    \
    }

// clang-format off
FROM_MM(cvtpi2ps) FROM_MM(cvtpi2pd)
TO_MM(cvtps2pi, 8) TO_MM(cvttps2pi, 8) TO_MM(cvtpd2pi, 16) TO_MM(cvttpd2pi, 16)
    // clang-format on
