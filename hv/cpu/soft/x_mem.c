// SPDX-License-Identifier: Apache-2.0
/* The halves of the integer handlers' memory helpers that need the address of a local. */
#include "hv/cpu/soft/x_int.h"

struct x_val x_ld_slow(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    uint64_t v = 0; /* little-endian: the low bytes */
    bool ok = soft_ld_slow(c, lin, size, &v);
    return (struct x_val){v, ok};
}

bool x_st_slow(struct soft_cpu *c, uint64_t lin, unsigned size, uint64_t v)
{
    return soft_st_slow(c, lin, size, &v);
}

struct x_val x_ea_slow(struct soft_cpu *c, const struct soft_insn *in, unsigned size, enum soft_access how)
{
    struct x_val r = {0, false};
    r.ok = soft_ea_slow(c, in, size, how, &r.v);
    return r;
}

struct x_val x_linear_slow(struct soft_cpu *c, unsigned seg, uint64_t off, unsigned size,
                           enum soft_access how)
{
    struct x_val r = {0, false};
    r.ok = soft_linear(c, (enum soft_sreg)seg, off, size, how, &r.v);
    return r;
}

struct x_lock x_lock_slow(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    struct x_lock l = {NULL, false, true};
    l.p = soft_lock_begin(c, lin, size, &l.direct);
    return l;
}
