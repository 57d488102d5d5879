// SPDX-License-Identifier: Apache-2.0
/* Chooses fast handlers for integer instructions; fusing is in fuse_int.c. */
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/x_int.h"

unsigned x_size_index(unsigned size)
{
    return size == 8 ? 3 : size == 4 ? 2 : size == 2 ? 1 : 0;
}

soft_fn soft_bind_int(const struct soft_insn *in)
{
    static soft_fn (*const choose[])(const struct soft_insn *, soft_fn) = {
        x_alu_fast, x_mov_fast, x_shift_fast, x_flow_fast, x_stack_fast, x_mul_fast};
    soft_fn general = soft_rows[in->row].handler, fn = NULL;
    if (soft_rows[in->row].flags & (SOFT_R_X87 | SOFT_R_SIMD))
        return NULL;
    for (unsigned i = 0; !fn && i < sizeof choose / sizeof choose[0]; i++)
        fn = choose[i](in, general);
    return fn;
}
