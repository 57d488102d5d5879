// SPDX-License-Identifier: Apache-2.0
/* What only AVX and AVX2 have: broadcasts, permutations over the whole register, shifts by element,
 * VZEROUPPER. Plain moves of elements, so that C will do. */
#include "hv/cpu/soft/x_simd.h"

static bool put(struct soft_cpu *c, const struct soft_insn *in, const union soft_vec *r)
{
    simd_put(c, in, in->reg, in->flags & SOFT_I_VL256, r);
    return true;
}

/* --- broadcasts --- */

#define BROADCAST(name, field, bytes)                                                                        \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec room, r = {0};                                                                        \
        if (!simd_avx_ok(c))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, bytes, 0, &room);                                           \
        if (!b)                                                                                              \
            return false;                                                                                    \
        for (unsigned i = 0; i < simd_vl(in) / (bytes); i++)                                                 \
            r.field[i] = b->field[0];                                                                        \
        return put(c, in, &r);                                                                               \
    }
// clang-format off
BROADCAST(vbroadcastss, u32, 4) BROADCAST(vbroadcastsd, u64, 8) BROADCAST(vpbroadcastb, u8, 1)
BROADCAST(vpbroadcastw, u16, 2) BROADCAST(vpbroadcastd, u32, 4) BROADCAST(vpbroadcastq, u64, 8)
BROADCAST(vbroadcastf128, lane, 16) BROADCAST(vbroadcasti128, lane, 16);
// clang-format on

/* --- permutations --- */

/* Each element i of the result, n to the lane, first at `lane`: `expression`, of a (vvvv) and b (rm). */
#define PERMUTE(name, field, n, expression)                                                                  \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        union soft_vec room, r = {0};                                                                        \
        unsigned imm = in->imm & 0xff;                                                                       \
        if (!simd_avx_ok(c))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *a = &c->ymm[in->vvvv], *b = simd_rm(c, in, simd_vl(in), 0, &room);             \
        if (!b)                                                                                              \
            return false;                                                                                    \
        for (unsigned i = 0; i < simd_vl(in) / 16 * (n); i++) {                                              \
            unsigned lane = i & ~((n)-1u);                                                                   \
            r.field[i] = (expression);                                                                       \
            (void)lane, (void)imm;                                                                           \
        }                                                                                                    \
        (void)a;                                                                                             \
        return put(c, in, &r);                                                                               \
    }

PERMUTE(vpermilps, u32, 4, a->u32[lane + (b->u32[i] & 3)]);
PERMUTE(vpermilpd, u64, 2, a->u64[lane + (b->u64[i] >> 1 & 1)]);
PERMUTE(vpermilps_imm, u32, 4, b->u32[lane + (imm >> (2 * (i & 3)) & 3)]);
PERMUTE(vpermilpd_imm, u64, 2, b->u64[lane + (imm >> i & 1)]);
PERMUTE(vpermd, u32, 4, b->u32[a->u32[i] & 7]);
PERMUTE(vpermps, u32, 4, b->u32[a->u32[i] & 7]);
PERMUTE(vpermq, u64, 2, b->u64[imm >> (2 * i) & 3]);
PERMUTE(vpermpd, u64, 2, b->u64[imm >> (2 * i) & 3]);
PERMUTE(vpblendd, u32, 4, imm >> i & 1 ? b->u32[i] : a->u32[i]);

/* Two of the four lanes of both sources, or zeros. */
static struct soft_lane choose(const union soft_vec *a, const union soft_vec *b, unsigned how)
{
    return how & 8 ? (struct soft_lane){{0, 0}} : (how & 2 ? b : a)->lane[how & 1];
}
PERMUTE(vperm2f128, lane, 1, choose(a, b, imm >> (4 * i)));
PERMUTE(vperm2i128, lane, 1, choose(a, b, imm >> (4 * i)));

static bool insert_lane(struct soft_cpu *c, const struct soft_insn *in)
{
    union soft_vec room, r;
    if (!simd_avx_ok(c))
        return false;
    const union soft_vec *b = simd_rm(c, in, 16, 0, &room);
    if (!b)
        return false;
    struct soft_lane v = b->lane[0];
    r = c->ymm[in->vvvv];
    r.lane[in->imm & 1] = v;
    return put(c, in, &r);
}

SIMD_HANDLER(vinsertf128)
{
    return insert_lane(c, in);
}

SIMD_HANDLER(vinserti128)
{
    return insert_lane(c, in);
}

static bool extract_lane(struct soft_cpu *c, const struct soft_insn *in)
{
    union soft_vec r = {0};
    if (!simd_avx_ok(c))
        return false;
    r.lane[0] = c->ymm[in->reg].lane[in->imm & 1];
    if (in->flags & SOFT_I_MEM)
        return simd_store(c, in, 16, 0, &r);
    simd_put(c, in, in->rm, false, &r);
    return true;
}

SIMD_HANDLER(vextractf128)
{
    return extract_lane(c, in);
}

SIMD_HANDLER(vextracti128)
{
    return extract_lane(c, in);
}

/* --- shifts by element --- */

PERMUTE(vpsllvd, u32, 4, b->u32[i] < 32 ? a->u32[i] << b->u32[i] : 0);
PERMUTE(vpsllvq, u64, 2, b->u64[i] < 64 ? a->u64[i] << b->u64[i] : 0);
PERMUTE(vpsrlvd, u32, 4, b->u32[i] < 32 ? a->u32[i] >> b->u32[i] : 0);
PERMUTE(vpsrlvq, u64, 2, b->u64[i] < 64 ? a->u64[i] >> b->u64[i] : 0);
PERMUTE(vpsravd, i32, 4, a->i32[i] >> (b->u32[i] < 32 ? b->u32[i] : 31));

/* --- all registers --- */

static bool zero(struct soft_cpu *c, unsigned from)
{
    if (!simd_avx_ok(c))
        return false;
    for (unsigned i = 0; i < (c->mode == SOFT_64 ? 16u : 8u); i++)
        for (unsigned k = from; k < 2; k++)
            c->ymm[i].lane[k] = (struct soft_lane){{0, 0}};
    return true;
}

SIMD_HANDLER(vzeroupper)
{
    return zero(c, 1);
}

SIMD_HANDLER(vzeroall)
{
    return zero(c, 0);
}
