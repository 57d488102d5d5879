// SPDX-License-Identifier: Apache-2.0
/* Shuffles by an immediate, and single elements: SSE to SSE4.1 with their AVX and AVX2 forms, and MMX. */
#include <string.h>

#include "hv/cpu/soft/x_simd.h"

/* Sources of a lane-wise shuffle: the first one and rm. */
struct pair {
    union soft_vec room;
    const union soft_vec *a, *b;
};

static bool sources(struct soft_cpu *c, const struct soft_insn *in, struct pair *p)
{
    if (!simd_ok(c, in))
        return false;
    p->a = &c->ymm[simd_first(in)];
    p->b = simd_rm(c, in, simd_vl(in), simd_align(in), &p->room);
    return p->b;
}

static bool put(struct soft_cpu *c, const struct soft_insn *in, const union soft_vec *r)
{
    simd_put(c, in, in->reg, in->flags & SOFT_I_VL256, r);
    return true;
}

/* Each element i of the result: `expression`, of a and b, by element `i` of `n` in lane `lane`. */
#define SHUFFLE(name, field, n, expression)                                                                  \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        struct pair p;                                                                                       \
        union soft_vec r = {0};                                                                              \
        unsigned imm = in->imm & 0xff, count = simd_vl(in) / 16 * (n);                                       \
        if (!sources(c, in, &p))                                                                             \
            return false;                                                                                    \
        for (unsigned k = 0; k < count; k++) {                                                               \
            unsigned lane = k & ~((n)-1u), i = k & ((n)-1u);                                                 \
            r.field[k] = (expression);                                                                       \
            (void)lane, (void)i;                                                                             \
        }                                                                                                    \
        return put(c, in, &r);                                                                               \
    }

#define A(field, k) p.a->field[k]
#define B(field, k) p.b->field[k]
SHUFFLE(pshufd, u32, 4, B(u32, lane + (imm >> (2 * i) & 3)));
SHUFFLE(pshuflw, u16, 8, i < 4 ? B(u16, lane + (imm >> (2 * i) & 3)) : B(u16, k));
SHUFFLE(pshufhw, u16, 8, i < 4 ? B(u16, k) : B(u16, lane + 4 + (imm >> (2 * (i - 4)) & 3)));
SHUFFLE(shufps, u32, 4, i < 2 ? A(u32, lane + (imm >> (2 * i) & 3)) : B(u32, lane + (imm >> (2 * i) & 3)));
SHUFFLE(shufpd, u64, 2, i ? B(u64, lane + (imm >> k & 1)) : A(u64, lane + (imm >> k & 1)));
SHUFFLE(blendps, u32, 4, imm >> k & 1 ? B(u32, k) : A(u32, k));
SHUFFLE(blendpd, u64, 2, imm >> k & 1 ? B(u64, k) : A(u64, k));
SHUFFLE(pblendw, u16, 8, imm >> i & 1 ? B(u16, k) : A(u16, k));
SHUFFLE(palignr, u8, 16,
        i + imm < 16   ? B(u8, lane + i + imm)
        : i + imm < 32 ? A(u8, lane + i + imm - 16)
                       : 0);

SIMD_HANDLER(palignr_mm)
{
    uint64_t b, a;
    unsigned n = in->imm & 0xff;
    if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &b))
        return false;
    a = simd_mm(c, in->reg);
    simd_mm_put(c, in->reg,
                n == 0   ? b
                : n < 8  ? b >> 8 * n | a << (64 - 8 * n)
                : n < 16 ? a >> 8 * (n - 8)
                         : 0);
    return true;
}

SIMD_HANDLER(pshufw)
{
    union soft_vec b = {0}, r = {0};
    if (!simd_mmx_ok(c) || !simd_load_mm(c, in, 8, &b.u64[0]))
        return false;
    for (unsigned i = 0; i < 4; i++)
        r.u16[i] = b.u16[in->imm >> (2 * i) & 3];
    simd_mm_put(c, in->reg, r.u64[0]);
    return true;
}

/* Blends by the top bits of a register: XMM0, or the one that the immediate's upper half names. */
#define BLENDV(name, field, n, bits)                                                                         \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        struct pair p;                                                                                       \
        union soft_vec r = {0};                                                                              \
        if (!sources(c, in, &p))                                                                             \
            return false;                                                                                    \
        const union soft_vec *mask = &c->ymm[simd_vex(in) ? in->imm2 : 0];                                   \
        for (unsigned k = 0; k < simd_vl(in) / 16 * (n); k++)                                                \
            r.field[k] = mask->field[k] >> ((bits)-1) ? B(field, k) : A(field, k);                           \
        return put(c, in, &r);                                                                               \
    }
BLENDV(pblendvb, u8, 16, 8);
BLENDV(blendvps, u32, 4, 32);
BLENDV(blendvpd, u64, 2, 64);

/* Integers of a part of the source to wider ones. bytes: of the source for one lane of the result. */
#define WIDEN(name, bytes, to, n, value)                                                                     \
    SIMD_PAIR(name)                                                                                          \
    {                                                                                                        \
        union soft_vec room, r = {0};                                                                        \
        if (!simd_ok(c, in))                                                                                 \
            return false;                                                                                    \
        const union soft_vec *b = simd_rm(c, in, (bytes)*simd_vl(in) / 16, 0, &room);                        \
        if (!b)                                                                                              \
            return false;                                                                                    \
        for (unsigned k = 0; k < simd_vl(in) / 16 * (n); k++)                                                \
            r.to[k] = (value);                                                                               \
        return put(c, in, &r);                                                                               \
    }
#define SIGNED(k) (int16_t)((b->u8[k] ^ 0x80) - 0x80)
// clang-format off
WIDEN(pmovsxbw, 8, i16, 8, SIGNED(k)) WIDEN(pmovsxbd, 4, i32, 4, SIGNED(k))
WIDEN(pmovsxbq, 2, i64, 2, SIGNED(k)) WIDEN(pmovsxwd, 8, i32, 4, b->i16[k])
WIDEN(pmovsxwq, 4, i64, 2, b->i16[k]) WIDEN(pmovsxdq, 8, i64, 2, b->i32[k])
WIDEN(pmovzxbw, 8, u16, 8, b->u8[k]) WIDEN(pmovzxbd, 4, u32, 4, b->u8[k])
WIDEN(pmovzxbq, 2, u64, 2, b->u8[k]) WIDEN(pmovzxwd, 8, u32, 4, b->u16[k])
WIDEN(pmovzxwq, 4, u64, 2, b->u16[k]) WIDEN(pmovzxdq, 8, u64, 2, b->u32[k]);
// clang-format on

/* --- between vectors and integer registers --- */

static uint32_t byte_signs(const uint8_t *v, unsigned n)
{
    uint32_t r = 0;
    for (unsigned i = 0; i < n; i++)
        r |= (uint32_t)(v[i] >> 7) << i;
    return r;
}

SIMD_PAIR(pmovmskb)
{
    if (!simd_ok(c, in))
        return false;
    c->gpr[in->reg] = byte_signs(c->ymm[in->rm].u8, simd_vl(in));
    return true;
}

SIMD_HANDLER(pmovmskb_mm)
{
    if (!simd_mmx_ok(c))
        return false;
    c->gpr[in->reg] = byte_signs(c->fpu.st[in->rm & 7], 8);
    simd_mm_enter(c);
    return true;
}

SIMD_PAIR(movmskps)
{
    uint32_t r = 0;
    if (!simd_ok(c, in))
        return false;
    for (unsigned i = 0; i < simd_vl(in) / 4; i++)
        r |= c->ymm[in->rm].u32[i] >> 31 << i;
    c->gpr[in->reg] = r;
    return true;
}

SIMD_PAIR(movmskpd)
{
    uint32_t r = 0;
    if (!simd_ok(c, in))
        return false;
    for (unsigned i = 0; i < simd_vl(in) / 8; i++)
        r |= (uint32_t)(c->ymm[in->rm].u64[i] >> 63) << i;
    c->gpr[in->reg] = r;
    return true;
}

/* The low `n` bytes of an integer operand, and the way back; a register's upper bits become zero. */
static bool int_operand(struct soft_cpu *c, const struct soft_insn *in, unsigned n, uint64_t *v)
{
    uint64_t lin;
    *v = 0;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, n, SOFT_READ, &lin) && soft_ld(c, lin, n, v);
    memcpy(v, &c->gpr[in->rm], n);
    return true;
}

static bool int_store(struct soft_cpu *c, const struct soft_insn *in, unsigned n, uint64_t v)
{
    uint64_t lin;
    if (in->flags & SOFT_I_MEM)
        return soft_ea(c, in, n, SOFT_WRITE, &lin) && soft_st(c, lin, n, &v);
    c->gpr[in->rm] = n == 8 ? v : (uint32_t)v;
    return true;
}

SIMD_PAIR(pextrw)
{
    if (!simd_ok(c, in))
        return false;
    c->gpr[in->reg] = c->ymm[in->rm].u16[in->imm & 7];
    return true;
}

SIMD_HANDLER(pextrw_mm)
{
    if (!simd_mmx_ok(c))
        return false;
    c->gpr[in->reg] = (uint16_t)(simd_mm(c, in->rm) >> (in->imm & 3) * 16);
    simd_mm_enter(c);
    return true;
}

static bool extract(struct soft_cpu *c, const struct soft_insn *in, unsigned n)
{
    uint64_t v = 0;
    if (!simd_ok(c, in))
        return false;
    memcpy(&v, c->ymm[in->reg].u8 + (in->imm & (16 / n - 1)) * n, n);
    return int_store(c, in, n, v);
}

SIMD_PAIR(pextrb)
{
    return extract(c, in, 1);
}

SIMD_PAIR(pextrw_st)
{
    return extract(c, in, 2);
}

SIMD_PAIR(pextrd)
{
    return extract(c, in, in->size);
}

SIMD_PAIR(extractps)
{
    return extract(c, in, 4);
}

static bool insert(struct soft_cpu *c, const struct soft_insn *in, unsigned n)
{
    union soft_vec r;
    uint64_t v;
    if (!simd_ok(c, in) || !int_operand(c, in, n, &v))
        return false;
    r = c->ymm[simd_first(in)];
    memcpy(r.u8 + (in->imm & (16 / n - 1)) * n, &v, n);
    simd_put(c, in, in->reg, false, &r);
    return true;
}

SIMD_PAIR(pinsrb)
{
    return insert(c, in, 1);
}

SIMD_PAIR(pinsrw)
{
    return insert(c, in, 2);
}

SIMD_PAIR(pinsrd)
{
    return insert(c, in, in->size);
}

SIMD_HANDLER(pinsrw_mm)
{
    uint64_t v;
    if (!simd_mmx_ok(c) || !int_operand(c, in, 2, &v))
        return false;
    unsigned at = (in->imm & 3) * 16;
    simd_mm_put(c, in->reg, (simd_mm(c, in->reg) & ~(0xffffull << at)) | v << at);
    return true;
}

SIMD_PAIR(insertps)
{
    union soft_vec room, r;
    bool mem = in->flags & SOFT_I_MEM;
    if (!simd_ok(c, in))
        return false;
    const union soft_vec *b = simd_rm(c, in, 4, 0, &room);
    if (!b)
        return false;
    uint32_t v = b->u32[mem ? 0 : in->imm >> 6 & 3];
    r = c->ymm[simd_first(in)];
    r.u32[in->imm >> 4 & 3] = v;
    for (unsigned i = 0; i < 4; i++)
        if (in->imm >> i & 1)
            r.u32[i] = 0;
    simd_put(c, in, in->reg, false, &r);
    return true;
}

/* --- whole tests --- */

static void test_flags(struct soft_cpu *c, bool zf, bool cf)
{
    soft_cc_set(&c->cc, (zf ? SOFT_FL_Z : 0) | (cf ? SOFT_FL_C : 0));
}

SIMD_PAIR(ptest)
{
    struct pair p;
    uint64_t both = 0, only_b = 0;
    if (!sources(c, in, &p))
        return false;
    p.a = &c->ymm[in->reg];
    for (unsigned i = 0; i < simd_vl(in) / 8; i++) {
        both |= A(u64, i) & B(u64, i);
        only_b |= ~A(u64, i) & B(u64, i);
    }
    test_flags(c, !both, !only_b);
    return true;
}

/* Only the sign of each element counts. */
#define SIGNS(name, field, bytes, bits)                                                                      \
    SIMD_HANDLER(name)                                                                                       \
    {                                                                                                        \
        struct pair p;                                                                                       \
        unsigned both = 0, only_b = 0;                                                                       \
        if (!sources(c, in, &p))                                                                             \
            return false;                                                                                    \
        p.a = &c->ymm[in->reg];                                                                              \
        for (unsigned i = 0; i < simd_vl(in) / (bytes); i++) {                                               \
            both |= (A(field, i) & B(field, i)) >> ((bits)-1) ? 1 : 0;                                       \
            only_b |= (~A(field, i) & B(field, i)) >> ((bits)-1) ? 1 : 0;                                    \
        }                                                                                                    \
        test_flags(c, !both, !only_b);                                                                       \
        return true;                                                                                         \
    }
SIGNS(vtestps, u32, 4, 32);
SIGNS(vtestpd, u64, 8, 64);
