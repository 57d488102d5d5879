// SPDX-License-Identifier: Apache-2.0
/* Segmentation of data accesses. Source: Intel SDM volume 3A, 5.3, 5.5; volume 1, 3.3. */
#include "hv/cpu/soft/exec.h"

static bool fault(struct soft_cpu *c, enum soft_sreg seg)
{
    soft_exc_error(c, seg == SOFT_SS ? SOFT_SSF : SOFT_GP, 0);
    return false;
}

/* May the segment be used this way? Type checks are protected mode's. */
static bool type_ok(const struct soft_cpu *c, const struct soft_segment *s, enum soft_access how)
{
    if (!(c->cr0 & SOFT_CR0_PE) || (c->eflags & SOFT_EFL_VM))
        return true;
    if (s->unusable || !s->present)
        return false;
    bool code = s->type & 8;
    return how == SOFT_WRITE ? !code && (s->type & 2) : !code || (s->type & 2);
}

static bool limit_ok(const struct soft_segment *s, uint32_t offset, unsigned size)
{
    uint64_t last = (uint64_t)offset + size - 1;
    if ((s->type & 0xc) == 4) /* data, expands down */
        return offset > s->limit && last <= (s->db ? 0xffffffffull : 0xffffull);
    return last <= s->limit;
}

bool soft_linear(struct soft_cpu *c, enum soft_sreg seg, uint64_t offset, unsigned size, enum soft_access how,
                 uint64_t *lin)
{
    const struct soft_segment *s = &c->seg[seg];
    if (c->mode == SOFT_64) {
        *lin = seg == SOFT_FS || seg == SOFT_GS ? s->base + offset : offset;
        return true;
    }
    if (!type_ok(c, s, how) || !limit_ok(s, (uint32_t)offset, size))
        return fault(c, seg);
    *lin = (uint32_t)(s->base + offset);
    return true;
}

bool soft_ea_slow(struct soft_cpu *c, const struct soft_insn *in, unsigned size, enum soft_access how,
                  uint64_t *lin)
{
    uint64_t offset = soft_ea_offset(c, in);
    if (in->asize == 4)
        offset = (uint32_t)offset;
    else if (in->asize == 2)
        offset = (uint16_t)offset;
    if (in->ea & SOFT_EA_LEGACY)
        return soft_linear(c, in->seg, offset, size, how, lin);
    *lin = in->ea & SOFT_EA_SEG ? offset + c->seg[in->seg].base : offset;
    return true;
}
