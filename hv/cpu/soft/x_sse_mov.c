// SPDX-License-Identifier: Apache-2.0
/* Moves of SSE to SSE4.1, their AVX forms, and MMX. */
#include <string.h>

#include "hv/cpu/soft/x_simd.h"

#define LOAD(name, align)                                                                                    \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room;                                                                                 \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *v = simd_rm(c, in, simd_vl(in), (align) ? simd_vl(in) : 0, &room);             \
        if (!v)                                                                                              \
            return false;                                                                                    \
        simd_put(c, in, in->reg, in->flags &SOFT_I_VL256, v);                                                \
        return true;                                                                                         \
    }
#define STORE(name, align)                                                                                   \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        if (in->flags & SOFT_I_MEM)                                                                          \
            return simd_store(c, in, simd_vl(in), (align) ? simd_vl(in) : 0, &c->ymm[in->reg]);              \
        simd_put(c, in, in->rm, in->flags &SOFT_I_VL256, &c->ymm[in->reg]);                                  \
        return true;                                                                                         \
    }

// clang-format off
LOAD(movaps, true) LOAD(movapd, true) LOAD(movdqa, true) LOAD(movups, false) LOAD(movupd, false)
LOAD(movdqu, false) LOAD(lddqu, false) LOAD(movntdqa, true) STORE(movaps_st, true) STORE(movapd_st, true)
STORE(movdqa_st, true) STORE(movups_st, false) STORE(movupd_st, false) STORE(movdqu_st, false)
STORE(movntps, true) STORE(movntpd, true) STORE(movntdq, true);
// clang-format on

/* Scalars: from memory the rest becomes zero; between registers it is the first source's. */
static bool load_scalar(struct soft_cpu *c, const struct soft_insn *in, unsigned bytes)
{
    union soft_vec v = {0};
    if (!simd_ok(c, in))
        return false;
    if (in->flags & SOFT_I_MEM) {
        if (!simd_load(c, in, bytes, 0, &v))
            return false;
    } else {
        v = c->ymm[simd_first(in)];
        memcpy(&v, &c->ymm[in->rm], bytes);
    }
    simd_put(c, in, in->reg, false, &v);
    return true;
}

static bool store_scalar(struct soft_cpu *c, const struct soft_insn *in, unsigned bytes)
{
    if (!simd_ok(c, in))
        return false;
    if (in->flags & SOFT_I_MEM)
        return simd_store(c, in, bytes, 0, &c->ymm[in->reg]);
    union soft_vec v = c->ymm[simd_vex(in) ? in->vvvv : in->rm];
    memcpy(&v, &c->ymm[in->reg], bytes);
    simd_put(c, in, in->rm, false, &v);
    return true;
}

SIMD_PAIR(movss)
{
    return load_scalar(c, in, 4);
}

SIMD_PAIR(movss_st)
{
    return store_scalar(c, in, 4);
}

SIMD_DO(movsd)
{
    return load_scalar(c, in, 8);
}
SIMD_IS(movsd_x, movsd);
SIMD_IS(vmovsd, movsd);

SIMD_DO(movsd_st)
{
    return store_scalar(c, in, 8);
}
SIMD_IS(movsd_x_st, movsd_st);
SIMD_IS(vmovsd_st, movsd_st);

SIMD_PAIR(movq)
{
    union soft_vec room, r = {0};
    if (!simd_ok(c, in))
        return false;
    const union soft_vec *v = simd_rm(c, in, 8, 0, &room);
    if (!v)
        return false;
    r.u64[0] = v->u64[0];
    simd_put(c, in, in->reg, false, &r);
    return true;
}

SIMD_PAIR(movq_st)
{
    union soft_vec r = {0};
    if (!simd_ok(c, in))
        return false;
    if (in->flags & SOFT_I_MEM)
        return simd_store(c, in, 8, 0, &c->ymm[in->reg]);
    r.u64[0] = c->ymm[in->reg].u64[0];
    simd_put(c, in, in->rm, false, &r);
    return true;
}

/* One half of a vector from memory (or the other half of another), the other half the first source's. */
#define HALF(name, to, from)                                                                                 \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room, r;                                                                              \
        bool mem = in->flags & SOFT_I_MEM;                                                                   \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *v = simd_rm(c, in, 8, 0, &room);                                               \
        if (!v)                                                                                              \
            return false;                                                                                    \
        r = c->ymm[simd_first(in)];                                                                          \
        r.u64[to] = v->u64[mem ? 0 : (from)];                                                                \
        simd_put(c, in, in->reg, false, &r);                                                                 \
        return true;                                                                                         \
    }

// clang-format off
HALF(movlps, 0, 0) HALF(movlpd, 0, 0) HALF(movhps, 1, 0) HALF(movhpd, 1, 0) HALF(movhlps, 0, 1)
HALF(movlhps, 1, 0);
// clang-format on

#define HALF_ST(name, from)                                                                                  \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec v;                                                                                    \
        v.u64[0] = c->ymm[in->reg].u64[from];                                                                \
        return simd_ok(c, in) && simd_store(c, in, 8, 0, &v);                                                \
    }

// clang-format off
HALF_ST(movlps_st, 0) HALF_ST(movlpd_st, 0) HALF_ST(movhps_st, 1) HALF_ST(movhpd_st, 1);
// clang-format on

/* The low half twice, in each lane. */
SIMD_PAIR(movddup)
{
    union soft_vec room, r = {0};
    bool wide = in->flags & SOFT_I_VL256;
    if (!simd_ok(c, in))
        return false;
    const union soft_vec *v = simd_rm(c, in, wide ? 32 : 8, 0, &room);
    if (!v)
        return false;
    r.u64[0] = r.u64[1] = v->u64[0];
    if (wide)
        r.u64[2] = r.u64[3] = v->u64[2];
    simd_put(c, in, in->reg, wide, &r);
    return true;
}

/* --- integer registers and memory of 4 or 8 bytes --- */

static bool int_operand(struct soft_cpu *c, const struct soft_insn *in, uint64_t *v)
{
    uint64_t lin;
    *v = 0;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, in->size, SOFT_READ, &lin) && soft_ld(c, lin, in->size, v);
    *v = in->size == 8 ? c->gpr[in->rm] : (uint32_t)c->gpr[in->rm];
    return true;
}

static bool int_store(struct soft_cpu *c, const struct soft_insn *in, uint64_t v)
{
    uint64_t lin;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, in->size, SOFT_WRITE, &lin) && soft_st(c, lin, in->size, &v);
    c->gpr[in->rm] = in->size == 8 ? v : (uint32_t)v;
    return true;
}

SIMD_PAIR(movd)
{
    uint64_t v;
    union soft_vec r = {0};
    if (!simd_ok(c, in) || !int_operand(c, in, &v))
        return false;
    r.u64[0] = v;
    simd_put(c, in, in->reg, false, &r);
    return true;
}

SIMD_PAIR(movd_st)
{
    if (!simd_ok(c, in) || !int_store(c, in, c->ymm[in->reg].u64[0]))
        return false;
    return true;
}

SIMD_HANDLER(movnti)
{
    uint64_t lin, v = c->gpr[in->reg];
    if (!soft_ea(c, in, in->size, SOFT_WRITE, &lin) || !soft_st(c, lin, in->size, &v))
        return false;
    return true;
}

SIMD_HANDLER(movd_mm)
{
    uint64_t v;
    if (!simd_mmx_ok(c) || !int_operand(c, in, &v))
        return false;
    simd_mm_put(c, in->reg, v);
    return true;
}

SIMD_HANDLER(movd_mm_st)
{
    if (!simd_mmx_ok(c) || !int_store(c, in, simd_mm(c, in->reg)))
        return false;
    simd_mm_enter(c);
    return true;
}

SIMD_HANDLER(movq_mm)
{
    uint64_t v;
    if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &v))
        return false;
    simd_mm_put(c, in->reg, v);
    return true;
}

static bool store_mm(struct soft_cpu *c, const struct soft_insn *in)
{
    uint64_t lin;
    if (!simd_mmx_ok(c))
        return false;
    if (!(in->flags & SOFT_I_MEM))
        simd_mm_put(c, in->rm, simd_mm(c, in->reg));
    else if (!soft_ea(c, in, 8, SOFT_WRITE, &lin) || !soft_st64(c, lin, simd_mm(c, in->reg)))
        return false;
    simd_mm_enter(c);
    return true;
}

SIMD_HANDLER(movq_mm_st)
{
    return store_mm(c, in);
}

SIMD_HANDLER(movntq)
{
    return store_mm(c, in);
}

SIMD_HANDLER(movq2dq)
{
    if (!simd_sse_ok(c) || !simd_mmx_ok(c))
        return false;
    c->ymm[in->reg].u64[0] = simd_mm(c, in->rm);
    c->ymm[in->reg].u64[1] = 0;
    simd_mm_enter(c);
    return true;
}

SIMD_HANDLER(movdq2q)
{
    if (!simd_sse_ok(c) || !simd_mmx_ok(c))
        return false;
    simd_mm_put(c, in->reg, c->ymm[in->rm].u64[0]);
    return true;
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

SIMD_PAIR(maskmovdqu)
{
    if (!simd_ok(c, in) || !masked_store(c, in, c->ymm[in->reg].u8, c->ymm[in->rm].u8, 16))
        return false;
    return true;
}

/* The x87 state changes before the store, which may fault (so Zen 4). */
SIMD_HANDLER(maskmovq)
{
    if (!simd_mmx_ok(c))
        return false;
    simd_mm_enter(c);
    return masked_store(c, in, c->fpu.st[in->reg & 7], c->fpu.st[in->rm & 7], 8);
}

SIMD_HANDLER(emms)
{
    if (!simd_mmx_ok(c))
        return false;
    simd_mm_enter(c);
    c->fpu.ftw = 0;
    return true;
}
