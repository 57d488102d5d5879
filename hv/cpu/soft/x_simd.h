// SPDX-License-Identifier: Apache-2.0
/* What the SIMD and x87 handlers share. They run on the host's own units, under the guest's control words
 * (ADR 0004): results, flags and rounding are the hardware's by construction. */
#ifndef FERRY_SOFT_X_SIMD_H
#define FERRY_SOFT_X_SIMD_H

#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/handlers.h"

#define SIMD_INLINE static inline __attribute__((always_inline))

/* A handler as a function that returns false when an exception is recorded. The work is a function of its own
 * because a local whose address has escaped would make the jump to the next handler a call, and the stack
 * would grow with every instruction of a chain of blocks. */
#define SIMD_DO(name)                                                                                        \
    static __attribute__((noinline)) bool do_##name(struct soft_cpu *c,                                      \
                                                    const struct soft_insn *in __attribute__((unused)))
#define SIMD_IS(name, work)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (SOFT_UNLIKELY(!do_##work(c, in)))                                                                \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }
#define SIMD_HANDLER(name)                                                                                   \
    SIMD_DO(name);                                                                                           \
    SIMD_IS(name, name)                                                                                      \
    SIMD_DO(name)
/* The legacy instruction and its VEX form. */
#define SIMD_PAIR(name)                                                                                      \
    SIMD_DO(name);                                                                                           \
    SIMD_IS(name, name)                                                                                      \
    SIMD_IS(v##name, name)                                                                                   \
    SIMD_DO(name)

/* The checks before an SSE, an AVX, an MMX and an x87 instruction; false: #UD, #NM or #MF recorded (SDM 2B,
 * exception classes; 3A 2.5). */
bool simd_sse_ok(struct soft_cpu *c);
bool simd_avx_ok(struct soft_cpu *c);
bool simd_mmx_ok(struct soft_cpu *c);
/* waiting: reports a pending unmasked x87 exception first. */
bool simd_x87_ok(struct soft_cpu *c, bool waiting);

static inline bool simd_ok(struct soft_cpu *c, const struct soft_insn *in)
{
    return in->flags & SOFT_I_VEX ? simd_avx_ok(c) : simd_sse_ok(c);
}

/* An unmasked x87 exception waits to be reported. */
static inline bool simd_x87_pending(const struct soft_fpu *f)
{
    return f->fsw & ~f->fcw & 0x3f;
}

static inline bool simd_vex(const struct soft_insn *in)
{
    return in->flags & SOFT_I_VEX;
}
/* Bytes of a vector: 16 or 32. */
static inline unsigned simd_vl(const struct soft_insn *in)
{
    return in->flags & SOFT_I_VL256 ? 32 : 16;
}

/* Load or store the low `size` bytes of the memory operand. align: 0, or #GP(0) for an address that is not a
 * multiple of it. */
bool simd_load(struct soft_cpu *c, const struct soft_insn *in, unsigned size, unsigned align,
               union soft_vec *v);
bool simd_store(struct soft_cpu *c, const struct soft_insn *in, unsigned size, unsigned align,
                const union soft_vec *v);
/* The rm operand: a register itself (all of it), or *room with `size` bytes of memory in it; NULL: fault. */
SIMD_INLINE const union soft_vec *simd_rm(struct soft_cpu *c, const struct soft_insn *in, unsigned size,
                                          unsigned align, union soft_vec *room)
{
    if (!(in->flags & SOFT_I_MEM))
        return &c->ymm[in->rm];
    return simd_load(c, in, size, align, room) ? room : NULL;
}
/* Alignment that only the legacy forms ask for. */
static inline unsigned simd_align(const struct soft_insn *in)
{
    return simd_vex(in) ? 0 : 16;
}

/* The register that the first source is: VEX.vvvv, or the destination. */
static inline unsigned simd_first(const struct soft_insn *in)
{
    return simd_vex(in) ? in->vvvv : in->reg;
}
/* Write a register: what is above 16 bytes (wide: 32) is kept by a legacy instruction, zeroed by a VEX one.
 */
SIMD_INLINE void simd_put(struct soft_cpu *c, const struct soft_insn *in, unsigned n, bool wide,
                          const union soft_vec *v)
{
    c->ymm[n].lane[0] = v->lane[0];
    if (simd_vex(in))
        c->ymm[n].lane[1] = wide ? v->lane[1] : (struct soft_lane){{0, 0}};
}

/* The MMX rm operand: a register, or `size` bytes of memory. */
bool simd_load_mm(struct soft_cpu *c, const struct soft_insn *in, unsigned size, uint64_t *v);

static inline uint64_t simd_mm(const struct soft_cpu *c, unsigned n)
{
    uint64_t v;
    __builtin_memcpy(&v, c->fpu.st[n & 7], 8);
    return v;
}
/* Write MMn, with what every MMX instruction does to the x87 state: all valid, TOP 0, the exponent all ones.
 */
static inline void simd_mm_enter(struct soft_cpu *c)
{
    c->fpu.fsw &= (uint16_t)~0x3800;
    c->fpu.ftw = 0xff;
}
static inline void simd_mm_put(struct soft_cpu *c, unsigned n, uint64_t v)
{
    __builtin_memcpy(c->fpu.st[n & 7], &v, 8);
    c->fpu.st[n & 7][8] = c->fpu.st[n & 7][9] = 0xff;
    simd_mm_enter(c);
}

#define SIMD_MASKS 0x1f80u
#define SIMD_UM 0x800u

/* Host instructions under the guest's MXCSR:
 *   SIMD_FP(c, f) { r = sources; ...; simd_fp_lane(c, &f); ... }
 *   if (!simd_fp_done(c, &f)) ...
 * The body runs with all exceptions masked. Where an exception that the guest has unmasked shows then, or
 * might (underflow: it is due for exact results too), the body runs once more with the guest's own masks and
 * the traps are caught: which flags there are beside the trapping one is the processor's own affair. Nothing
 * but the instructions' own floating point may be in the body; simd_fp_lane stands between its instructions.
 */
struct simd_fp {
    uint32_t host, flags;
    unsigned pass; /* 1: masked; 2: with traps; 3: that, and in lanes */
};
/* x_simd_trap.c: what follows the masked pass, and the lanes of the one that traps. */
bool simd_fp_again(struct soft_cpu *c, struct simd_fp *f, uint32_t now);
void simd_fp_trap_lane(struct soft_cpu *c, struct simd_fp *f);

SIMD_INLINE bool simd_fp_more(struct soft_cpu *c, struct simd_fp *f)
{
    uint32_t control = (c->mxcsr | SIMD_MASKS) & ~0x3fu, now;
    if (!f->pass) {
        __asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(f->host) : "m"(control));
        f->pass = 1;
        return true;
    }
    __asm__ volatile("stmxcsr %0\n\tldmxcsr %1" : "=m"(now) : "m"(f->host));
    if (SOFT_LIKELY(f->pass == 1))
        f->flags = now & 0x3f;
    return SOFT_UNLIKELY((c->mxcsr & SIMD_MASKS) != SIMD_MASKS) && simd_fp_again(c, f, now);
}
SIMD_INLINE void simd_fp_lane(struct soft_cpu *c, struct simd_fp *f)
{
    if (SOFT_UNLIKELY(f->pass > 1))
        simd_fp_trap_lane(c, f);
}
/* Put the flags into the guest's MXCSR; false: one of them is unmasked: #XM (or #UD) recorded, the
 * destination must stay. */
bool simd_fp_done(struct soft_cpu *c, const struct simd_fp *f);
#define SIMD_FP(c, f) for (struct simd_fp *f##_ = &(f); simd_fp_more(c, f##_);)

/* A host instruction on one lane: *a = *a op *b, or *a = op *b. */
typedef void simd_op(struct soft_lane *a, const struct soft_lane *b);
#define SIMD_OP(name, text)                                                                                  \
    SIMD_INLINE void op_##name(struct soft_lane *a, const struct soft_lane *b)                               \
    {                                                                                                        \
        __asm__ volatile("movdqu %0, %%xmm0\n\tmovdqu %1, %%xmm1\n\t" text "\n\tmovdqu %%xmm0, %0"           \
                         : "+m"(*a)                                                                          \
                         : "m"(*b)                                                                           \
                         : "xmm0", "xmm1");                                                                  \
    }
/* The same with an immediate: a table of `count` functions (simd_op), 32 bytes each, one a value. */
#define SIMD_IMM(name, count, text)                                                                          \
    __asm__(".pushsection .text\n.balign 32\nsimd_imm_" #name ":\n.set simd_i, 0\n.rept " #count             \
            "\n.balign 32\nmovdqu (%rdi), %xmm0\nmovdqu (%rsi), %xmm1\n" text                                \
            "\nmovdqu %xmm0, (%rdi)\nret\n.set simd_i, simd_i + 1\n.endr\n.popsection\n");                   \
    extern const uint8_t simd_imm_##name[] __asm__("simd_imm_" #name)
#define SIMD_IMM_OP(name, value) ((simd_op *)(uintptr_t)(simd_imm_##name + 32 * (value)))

/* first source op rm, lane by lane. bytes: of a scalar (the rest of the first source stays), 0: a vector. */
SIMD_INLINE bool simd_run(struct soft_cpu *c, const struct soft_insn *in, simd_op *op, unsigned bytes,
                          bool fp)
{
    union soft_vec room, a;
    struct simd_fp f = {0, 0, 0};
    bool wide = !bytes && in->flags & SOFT_I_VL256;
    if (!simd_ok(c, in))
        return false;
    const union soft_vec *b = simd_rm(c, in, bytes ? bytes : simd_vl(in), bytes ? 0 : simd_align(in), &room);
    if (!b)
        return false;
    if (!fp) {
        a = c->ymm[simd_first(in)];
        op(&a.lane[0], &b->lane[0]);
        if (wide)
            op(&a.lane[1], &b->lane[1]);
    } else {
        SIMD_FP(c, f)
        {
            a = c->ymm[simd_first(in)];
            op(&a.lane[0], &b->lane[0]);
            if (wide) {
                simd_fp_lane(c, &f);
                op(&a.lane[1], &b->lane[1]);
            }
        }
        if (!simd_fp_done(c, &f))
            return false;
    }
    simd_put(c, in, in->reg, wide, &a);
    return true;
}

#endif
