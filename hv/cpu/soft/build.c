// SPDX-License-Identifier: Apache-2.0
/* What is done to a decoded block before it runs. */
#include "hv/cpu/soft/decode.h"
#include "hv/cpu/soft/exec.h"

/* A store may end the block behind itself (it may hit the block's own bytes), so its flags count as read. */
static bool may_store(const struct soft_insn *in)
{
    const char *ops = soft_rows[in->row].operands;
    return (in->flags & SOFT_I_MEM) && (!ops || ops[0] == 'E' || ops[0] == 'M');
}

/* Mark the instructions whose arithmetic flags are all overwritten before anything can see them. Whatever may
 * fault sees them, and so does the end of the block. */
static void mark_dead_flags(struct soft_block *b)
{
    unsigned live = SOFT_ARITH;
    for (unsigned i = b->count; i-- > 0;) {
        struct soft_insn *in = &b->code[i];
        const struct soft_row *row = &soft_rows[in->row];
        if (in->fn || (row->flags & SOFT_R_END)) {
            live = SOFT_ARITH;
            continue;
        }
        if (row->writes && !((row->writes | row->undefined) & live) && !may_store(in))
            in->flags |= SOFT_I_NF;
        live &= ~(unsigned)row->writes;
        live |= soft_insn_reads(in);
        bool accesses = (in->flags & SOFT_I_MEM) && !(row->flags & SOFT_R_NOMEM);
        if (accesses || (row->flags & SOFT_R_FAULTS))
            live = SOFT_ARITH;
    }
}

/* In 64-bit mode FS and GS only add their bases: as one more register of the sum an address with them needs
 * nothing special. */
static void fold_base(struct soft_insn *in)
{
    uint8_t slot = in->seg == SOFT_FS ? SOFT_GPR_FS : SOFT_GPR_GS;
    if (in->ea != SOFT_EA_SEG || !(in->flags & SOFT_I_MEM) ||
        (soft_rows[in->row].flags & (SOFT_R_SIMD | SOFT_R_X87 | SOFT_R_NOMEM)))
        return;
    if (in->base == SOFT_GPR_ZERO && in->index == SOFT_GPR_ZERO)
        in->base = slot;
    else if (in->index == SOFT_GPR_ZERO)
        in->index = slot, in->scale = 0;
    else
        return;
    in->ea = 0;
}

/* A near branch out of the block's page: no chain can lead there. */
static bool leaves_page(const struct soft_block *b, const struct soft_insn *in)
{
    uint64_t start = b->phys & 4095, to = start + in->off + in->len + in->imm;
    return (soft_rows[in->row].flags & SOFT_R_BRANCH) && to >= 4096;
}

void soft_finish(struct soft_cpu *c, struct soft_block *b)
{
    b->next[0] = b->next[1] = &soft_unlinked;
    b->to = b->back = (struct soft_jump){0};
    b->cost = b->count;
    for (unsigned i = 0; i < b->count && c->mode == SOFT_64; i++)
        fold_base(&b->code[i]);
    if (leaves_page(b, &b->code[b->count - 1]))
        b->code[b->count - 1].imm2 = 1;
    mark_dead_flags(b);
    /* A record that raises has its handler already, and is always the only one. */
    if (!b->code[0].fn && b->count > 1)
        soft_fuse_int(b->code, b->count);
    for (unsigned i = 0; i < b->count; i++)
        if (!b->code[i].fn)
            b->code[i].fn = soft_bind(&b->code[i]);
    struct soft_insn *end = &b->code[b->count];
    memset(end, 0, sizeof *end);
    end->fn = soft_x_block_end;
    end->off = b->bytes;
    c->stat_blocks++;
    c->stat_decoded += b->count;
}
