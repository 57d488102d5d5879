// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/x_simd.h"

#include <string.h>

bool simd_sse_ok(struct soft_cpu *c)
{
    if (SOFT_LIKELY((c->cr0 & (SOFT_CR0_EM | SOFT_CR0_TS)) == 0 && c->cr4 & SOFT_CR4_OSFXSR))
        return true;
    soft_exc(c, c->cr0 & SOFT_CR0_EM || !(c->cr4 & SOFT_CR4_OSFXSR) ? SOFT_UD : SOFT_NM);
    return false;
}

bool simd_avx_ok(struct soft_cpu *c)
{
    bool ok =
        c->cr4 & SOFT_CR4_OSXSAVE && (c->xcr0 & 6) == 6 && c->cr0 & SOFT_CR0_PE && !(c->eflags & SOFT_EFL_VM);
    if (SOFT_LIKELY(ok && !(c->cr0 & SOFT_CR0_TS)))
        return true;
    soft_exc(c, ok ? SOFT_NM : SOFT_UD);
    return false;
}

static bool pending(struct soft_cpu *c)
{
    /* By the exceptions themselves, not by ES: a loaded state may disagree with itself, and the host would
     * then raise the exception in this process. */
    if (!simd_x87_pending(&c->fpu))
        return false;
    /* Without CR0.NE it is an external interrupt on pin FERR#, which no machine of Ferry's wires; #MF then
     * too. */
    soft_exc(c, SOFT_MF);
    return true;
}

bool simd_mmx_ok(struct soft_cpu *c)
{
    if (c->cr0 & (SOFT_CR0_EM | SOFT_CR0_TS)) {
        soft_exc(c, c->cr0 & SOFT_CR0_EM ? SOFT_UD : SOFT_NM);
        return false;
    }
    return !pending(c);
}

bool simd_x87_ok(struct soft_cpu *c, bool waiting)
{
    if (c->cr0 & (SOFT_CR0_EM | SOFT_CR0_TS)) {
        soft_exc(c, SOFT_NM);
        return false;
    }
    return !waiting || !pending(c);
}

/* Alignment goes before the segment's limits and canonical form. The low bits are the sum's, however wide. */
static bool address(struct soft_cpu *c, const struct soft_insn *in, unsigned size, unsigned align,
                    enum soft_access how, uint64_t *lin)
{
    uint64_t at = soft_ea_offset(c, in) + (in->ea & SOFT_EA_SEG ? c->seg[in->seg].base : 0);
    if (align && at & (align - 1)) {
        soft_exc_error(c, SOFT_GP, 0);
        return false;
    }
    return soft_ea(c, in, size, how, lin);
}

bool simd_load(struct soft_cpu *c, const struct soft_insn *in, unsigned size, unsigned align,
               union soft_vec *v)
{
    uint64_t lin;
    return address(c, in, size, align, SOFT_READ, &lin) && soft_ld(c, lin, size, v);
}

bool simd_store(struct soft_cpu *c, const struct soft_insn *in, unsigned size, unsigned align,
                const union soft_vec *v)
{
    uint64_t lin;
    return address(c, in, size, align, SOFT_WRITE, &lin) && soft_st(c, lin, size, v);
}

bool simd_load_mm(struct soft_cpu *c, const struct soft_insn *in, unsigned size, uint64_t *v)
{
    uint64_t lin;
    *v = 0;
    if (!(in->flags & SOFT_I_MEM)) {
        *v = simd_mm(c, in->rm);
        return true;
    }
    return soft_ea(c, in, size, SOFT_READ, &lin) && soft_ld(c, lin, size, v);
}

bool simd_fp_done(struct soft_cpu *c, const struct simd_fp *f)
{
    uint32_t raised = f->flags;
    uint32_t unmasked = raised & ~(c->mxcsr >> 7) & 0x3f;
    /* Invalid, denormal and zero-divide come before the operation: where one of them is unmasked in one lane
     * the others' later flags never rise. */
    if (f->pass == 3 && unmasked & 7)
        raised &= 7;
    c->mxcsr |= raised;
    if (SOFT_LIKELY(!unmasked))
        return true;
    soft_exc(c, c->cr4 & SOFT_CR4_OSXMMEXCPT ? SOFT_XM : SOFT_UD);
    return false;
}
