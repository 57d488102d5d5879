// SPDX-License-Identifier: Apache-2.0
/* A prototype for each handler that the opcode table names. */
#ifndef FERRY_SOFT_HANDLERS_H
#define FERRY_SOFT_HANDLERS_H

#include "hv/cpu/soft/insn.h"

/* Handlers may be missing: their rows then have none (NULL). */
#define SOFT_WEAK __attribute__((weak))

#define ROW(handler, ...)                                                                                    \
    const struct soft_insn *soft_x_##handler(struct soft_cpu *c, const struct soft_insn *in) SOFT_WEAK;
#include "hv/cpu/soft/optable.def"
#undef ROW

#endif
