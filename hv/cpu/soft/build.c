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

void soft_finish(struct soft_cpu *c, struct soft_block *b)
{
    b->next[0] = b->next[1] = &soft_unlinked;
    b->cost = b->count;
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
