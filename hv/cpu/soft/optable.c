// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/handlers.h"

/* Initialisers, which parentheses would not suit. */
// NOLINTBEGIN(bugprone-macro-parentheses)
const struct soft_row soft_rows[] = {
#define ROW(fn, mnemonic, letters, in_map, code, mandatory, group, reg, form, needs, w, l, bits, rd, wr, un) \
    {.name = mnemonic,                                                                                       \
     .operands = letters,                                                                                    \
     .map = SOFT_##in_map,                                                                                   \
     .opcode = code,                                                                                         \
     .prefix = mandatory,                                                                                    \
     .ext = group,                                                                                           \
     .rm = reg,                                                                                              \
     .mod = form,                                                                                            \
     .feature = SOFT_F_##needs,                                                                              \
     .vex_w = w,                                                                                             \
     .vex_l = l,                                                                                             \
     .flags = bits,                                                                                          \
     .reads = rd,                                                                                            \
     .writes = wr,                                                                                           \
     .undefined = un,                                                                                        \
     .handler = soft_x_##fn},
#include "hv/cpu/soft/optable.def"
#undef ROW
    // NOLINTEND(bugprone-macro-parentheses)
};

const unsigned soft_row_count = sizeof soft_rows / sizeof *soft_rows;

unsigned soft_insn_reads(const struct soft_insn *in)
{
    const struct soft_row *row = &soft_rows[in->row];
    if (row->flags & SOFT_R_REP)
        return in->flags & (SOFT_I_REP | SOFT_I_REPNE) ? row->reads : 0;
    bool shift = row->map == SOFT_M1 && (row->opcode & 0xfe) == 0xc0;
    bool pair = row->map == SOFT_M0F && (row->opcode == 0xa4 || row->opcode == 0xac);
    if ((!shift && !pair) || !(in->imm & (in->size == 8 ? 63 : 31)))
        return row->reads;
    return shift && (row->ext == 2 || row->ext == 3) ? SOFT_CF : 0;
}
