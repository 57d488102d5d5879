// SPDX-License-Identifier: Apache-2.0
/* What the SIMD and x87 handlers share. They run on the host's own units, under the guest's control words
 * (ADR 0004): results, flags and rounding are the hardware's by construction. */
#ifndef FERRY_SOFT_X_SIMD_H
#define FERRY_SOFT_X_SIMD_H

#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/handlers.h"

/* These handlers have operands in memory of their own, and a function with such locals cannot end in a jump:
 * the stack would grow with every instruction. So the work is done by a function that is called and says
 * where to go on (NULL: leave the loop), and the handler around it jumps. tests/lint/tailcalls.sh looks after
 * it. */
#undef SOFT_HANDLER
#undef SOFT_NEXT
#define SOFT_NEXT(c, in) return (void)(c), (in) + 1
#define SOFT_HANDLER(name)                                                                                   \
    static const struct soft_insn *simd_do_##name(struct soft_cpu *c, const struct soft_insn *in);           \
    const struct soft_insn *soft_x_##name(struct soft_cpu *c, const struct soft_insn *in)                    \
    {                                                                                                        \
        const struct soft_insn *next = simd_do_##name(c, in);                                                \
        if (SOFT_LIKELY(next != NULL))                                                                       \
            SOFT_GO(c, next);                                                                                \
        return NULL;                                                                                         \
    }                                                                                                        \
    static __attribute__((noinline))                                                                         \
    const struct soft_insn *simd_do_##name(struct soft_cpu *c, const struct soft_insn *in)

/* The checks before an SSE, an MMX and an x87 instruction; false: #UD, #NM or #MF recorded (SDM 2B, exception
 * classes; 3A 2.5). */
bool simd_sse_ok(struct soft_cpu *c);
bool simd_mmx_ok(struct soft_cpu *c);
/* waiting: reports a pending unmasked x87 exception first. */
bool simd_x87_ok(struct soft_cpu *c, bool waiting);

/* An unmasked x87 exception waits to be reported. */
static inline bool simd_x87_pending(const struct soft_fpu *f)
{
    return f->fsw & ~f->fcw & 0x3f;
}

/* The rm operand, `size` bytes, into *v (whose rest is zero). aligned: #GP(0) for memory that is not a
 * multiple of 16. */
bool simd_load(struct soft_cpu *c, const struct soft_insn *in, unsigned size, bool aligned,
               union soft_vec *v);
/* Store the low `size` bytes of *v to the memory operand. */
bool simd_store(struct soft_cpu *c, const struct soft_insn *in, unsigned size, bool aligned,
                const union soft_vec *v);
/* The same for MMX: rm is a register, or 8 bytes (or `size`) of memory. */
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

/* After an instruction that ran with all exceptions masked: put the flags that `now` (the MXCSR then) shows
 * into the guest's; false: one of them is unmasked: #XM (or #UD) recorded, the destination must stay. */
bool simd_fp_done(struct soft_cpu *c, uint32_t now);
#define SIMD_MASKED(mxcsr) (((mxcsr) | 0x1f80u) & ~0x3fu)

#endif
