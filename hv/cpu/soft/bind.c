// SPDX-License-Identifier: Apache-2.0
#include "hv/base/log.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/optable.h"

#define ROWS_MAX 8192

/* No row of the table is without a handler today; its feature would not be offered. */
static const struct soft_insn *unimplemented(struct soft_cpu *c, const struct soft_insn *in)
{
    static bool warned[ROWS_MAX];
    if (in->row < ROWS_MAX && !__atomic_exchange_n(&warned[in->row], true, __ATOMIC_RELAXED))
        fy_warn("software CPU: %s %s is not implemented; the guest gets #UD", soft_rows[in->row].name,
                soft_rows[in->row].operands);
    return soft_raise(c, in, SOFT_UD);
}

soft_fn soft_bind(const struct soft_insn *in)
{
    const struct soft_row *row = &soft_rows[in->row];
    soft_fn fn = NULL;
    if (!(row->flags & (SOFT_R_SIMD | SOFT_R_X87)))
        fn = soft_bind_int(in);
    if (!fn)
        fn = row->handler;
    return fn ? fn : unimplemented;
}
