// SPDX-License-Identifier: Apache-2.0
/* AVX and AVX2 accesses by element: masked moves, which touch no memory (and meet no fault) where the mask's
 * top bit is clear, and gathers. */
#include "hv/cpu/soft/x_simd.h"

/* Linear address of the memory operand plus `more`, by the instruction's own rules. */
static bool element(struct soft_cpu *c, const struct soft_insn *in, int64_t more, unsigned size,
                    enum soft_access how, uint64_t *lin)
{
    struct soft_insn at = *in;
    at.disp = (int64_t)((uint64_t)in->disp + (uint64_t)more);
    return soft_ea(c, &at, size, how, lin);
}

static bool chosen(const union soft_vec *mask, unsigned size, unsigned i)
{
    return mask->u8[size * i + size - 1] >> 7;
}

static bool masked_load(struct soft_cpu *c, const struct soft_insn *in, unsigned size)
{
    union soft_vec r = {0}, mask;
    uint64_t lin;
    if (!simd_avx_ok(c))
        return false;
    mask = c->ymm[in->vvvv];
    for (unsigned i = 0; i < simd_vl(in) / size; i++)
        if (chosen(&mask, size, i) && (!element(c, in, (int64_t)i * size, size, SOFT_READ, &lin) ||
                                       !soft_ld(c, lin, size, r.u8 + (size_t)i * size)))
            return false;
    simd_put(c, in, in->reg, in->flags & SOFT_I_VL256, &r);
    return true;
}

/* All of the chosen elements or none. */
static bool masked_store(struct soft_cpu *c, const struct soft_insn *in, unsigned size)
{
    union soft_vec v, mask;
    uint64_t lin[8] = {0};
    if (!simd_avx_ok(c))
        return false;
    mask = c->ymm[in->vvvv];
    v = c->ymm[in->reg];
    for (unsigned i = 0; i < simd_vl(in) / size; i++)
        if (chosen(&mask, size, i) && (!element(c, in, (int64_t)i * size, size, SOFT_WRITE, &lin[i]) ||
                                       !soft_probe(c, lin[i], size, SOFT_WRITE)))
            return false;
    for (unsigned i = 0; i < simd_vl(in) / size; i++)
        if (chosen(&mask, size, i) && !soft_st(c, lin[i], size, v.u8 + (size_t)i * size))
            return false;
    return true;
}

#define MASKED(name, size)                                                                                   \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        return masked_load(c, in, size);                                                                     \
    }                                                                                                        \
    SIMD_HANDLER(name##_st)                                                                                  \
    {                                                                                                        \
        return masked_store(c, in, size);                                                                    \
    }
MASKED(vmaskmovps, 4);
MASKED(vmaskmovpd, 8);
MASKED(vpmaskmovd, 4);
MASKED(vpmaskmovq, 8);

/* Elements are loaded from the lowest on. One that faults leaves what has been loaded in the destination, and
 * its mask cleared, so that the instruction goes on from there when it is begun again. */
static bool gather(struct soft_cpu *c, const struct soft_insn *in, unsigned size, unsigned index_size)
{
    struct soft_insn base = *in;
    unsigned n = simd_vl(in) / (size > index_size ? size : index_size);
    if (!simd_avx_ok(c))
        return false;
    union soft_vec *to = &c->ymm[in->reg], *mask = &c->ymm[in->vvvv];
    const union soft_vec *index = &c->ymm[in->index];
    base.index = SOFT_GPR_ZERO;
    base.scale = 0;
    for (unsigned i = 0; i < n; i++) {
        uint64_t lin;
        int64_t at = index_size == 8 ? index->i64[i] : index->i32[i];
        if (chosen(mask, size, i) &&
            (!element(c, &base, (int64_t)((uint64_t)at << in->scale), size, SOFT_READ, &lin) ||
             !soft_ld(c, lin, size, to->u8 + (size_t)size * i)))
            return false;
        for (unsigned k = 0; k < size; k++)
            mask->u8[size * i + k] = 0;
    }
    for (unsigned i = size * n; i < 32; i++)
        to->u8[i] = 0;
    *mask = (union soft_vec){0};
    return true;
}

#define GATHER(name, size, index_size)                                                                       \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        return gather(c, in, size, index_size);                                                              \
    }
// clang-format off
GATHER(vpgatherdd, 4, 4) GATHER(vpgatherdq, 8, 4) GATHER(vpgatherqd, 4, 8) GATHER(vpgatherqq, 8, 8)
GATHER(vgatherdps, 4, 4) GATHER(vgatherdpd, 8, 4) GATHER(vgatherqps, 4, 8) GATHER(vgatherqpd, 8, 8);
// clang-format on
