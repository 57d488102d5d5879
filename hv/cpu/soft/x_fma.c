// SPDX-License-Identifier: Apache-2.0
/* FMA and F16C, by the host's own instructions under the guest's MXCSR. A 256-bit form is the 128-bit one on
 * each lane. */
#include "hv/cpu/soft/x_simd.h"

typedef void fma_op(struct soft_lane *a, const struct soft_lane *b, const struct soft_lane *d);

/* bytes: of a scalar, whose upper part stays the destination's; 0: a vector. */
SIMD_INLINE bool run(struct soft_cpu *c, const struct soft_insn *in, fma_op *op, unsigned bytes)
{
    union soft_vec room, a;
    struct simd_fp f = {0, 0, 0};
    bool wide = !bytes && in->flags & SOFT_I_VL256;
    if (!simd_avx_ok(c))
        return false;
    const union soft_vec *b = &c->ymm[in->vvvv], *d = simd_rm(c, in, bytes ? bytes : simd_vl(in), 0, &room);
    if (!d)
        return false;
    SIMD_FP(c, f)
    {
        a = c->ymm[in->reg];
        op(&a.lane[0], &b->lane[0], &d->lane[0]);
        if (wide) {
            simd_fp_lane(c, &f);
            op(&a.lane[1], &b->lane[1], &d->lane[1]);
        }
    }
    if (!simd_fp_done(c, &f))
        return false;
    simd_put(c, in, in->reg, wide, &a);
    return true;
}

#define FMA(name, bytes)                                                                                     \
    SIMD_INLINE void op_##name(struct soft_lane *a, const struct soft_lane *b, const struct soft_lane *d)    \
    {                                                                                                        \
        __asm__ volatile("vmovdqu %0, %%xmm0\n\tvmovdqu %1, %%xmm1\n\tvmovdqu %2, %%xmm2\n\t" #name          \
                         " %%xmm2, %%xmm1, %%xmm0\n\tvmovdqu %%xmm0, %0"                                     \
                         : "+m"(*a)                                                                          \
                         : "m"(*b), "m"(*d)                                                                  \
                         : "xmm0", "xmm1", "xmm2");                                                          \
    }                                                                                                        \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        return run(c, in, op_##name, bytes);                                                                 \
    }
#define FMA2(name) FMA(name##ps, 0) FMA(name##pd, 0)
#define FMA4(name) FMA2(name) FMA(name##ss, 4) FMA(name##sd, 8)

// clang-format off
FMA4(vfmadd132) FMA4(vfmsub132) FMA4(vfnmadd132) FMA4(vfnmsub132) FMA2(vfmaddsub132) FMA2(vfmsubadd132)
FMA4(vfmadd213) FMA4(vfmsub213) FMA4(vfnmadd213) FMA4(vfnmsub213) FMA2(vfmaddsub213) FMA2(vfmsubadd213)
FMA4(vfmadd231) FMA4(vfmsub231) FMA4(vfnmadd231) FMA4(vfnmsub231) FMA2(vfmaddsub231) FMA2(vfmsubadd231);
// clang-format on

/* --- half precision --- */

SIMD_OP(vcvtph2ps, "vcvtph2ps %%xmm1, %%xmm0");

SIMD_HANDLER(vcvtph2ps)
{
    union soft_vec room, r;
    struct soft_lane half = {{0, 0}}, other = half;
    struct simd_fp f = {0, 0, 0};
    bool wide = in->flags & SOFT_I_VL256;
    if (!simd_avx_ok(c))
        return false;
    const union soft_vec *b = simd_rm(c, in, wide ? 16 : 8, 0, &room);
    if (!b)
        return false;
    half.q[0] = b->u64[0];
    if (wide)
        other.q[0] = b->u64[1];
    SIMD_FP(c, f)
    {
        op_vcvtph2ps(&r.lane[0], &half);
        simd_fp_lane(c, &f);
        op_vcvtph2ps(&r.lane[1], &other);
    }
    if (!simd_fp_done(c, &f))
        return false;
    simd_put(c, in, in->reg, wide, &r);
    return true;
}

SIMD_IMM(vcvtps2ph, 8, "vcvtps2ph $simd_i, %xmm1, %xmm0");

SIMD_HANDLER(vcvtps2ph)
{
    union soft_vec r = {0};
    struct simd_fp f = {0, 0, 0};
    uint64_t lin;
    bool wide = in->flags & SOFT_I_VL256;
    unsigned bytes = wide ? 16 : 8;
    simd_op *op = SIMD_IMM_OP(vcvtps2ph, in->imm & 7);
    if (!simd_avx_ok(c))
        return false;
    if (in->flags & SOFT_I_MEM &&
        (!soft_ea(c, in, bytes, SOFT_WRITE, &lin) || !soft_probe(c, lin, bytes, SOFT_WRITE)))
        return false;
    SIMD_FP(c, f)
    {
        op(&r.lane[0], &c->ymm[in->reg].lane[0]);
        if (wide) {
            simd_fp_lane(c, &f);
            op(&r.lane[1], &c->ymm[in->reg].lane[1]);
        }
    }
    r.u64[1] = wide ? r.u64[2] : 0;
    if (!simd_fp_done(c, &f))
        return false;
    if (in->flags & SOFT_I_MEM)
        return simd_store(c, in, bytes, 0, &r);
    simd_put(c, in, in->rm, false, &r);
    return true;
}
