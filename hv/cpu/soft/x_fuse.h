// SPDX-License-Identifier: Apache-2.0
/* Pairs of instructions that run as one. A fused handler does its own record and the next one; the second
 * record stays, with a handler of its own, and runs by that whenever its part of the fast path fails. So
 * faults, counts and poisoning need nothing special: no half of a pair writes memory but through the TLB's
 * write ways, which pages with decoded code do not have. */
#ifndef FERRY_SOFT_X_FUSE_H
#define FERRY_SOFT_X_FUSE_H

#include "hv/cpu/soft/x_int.h"

/* What a row does, as far as fusing looks at it. */
enum x_mnemonic {
    X_M_UNKNOWN, /* not looked at yet */
    X_M_OTHER,
    X_M_MOV,
    X_M_MOVZX,
    X_M_ADD,
    X_M_SUB,
    X_M_XOR,
    X_M_AND,
    X_M_OR,
    X_M_CMP,
    X_M_TEST,
    X_M_INC,
    X_M_DEC,
    X_M_SHL,
    X_M_SHR,
    X_M_ROL,
    X_M_ROR,
    X_M_LEA,
    X_M_IMUL2,
    X_M_PUSH,
    X_M_POP,
    X_M_JCC
};
enum x_mnemonic x_mnemonic_of(const struct soft_insn *in);

/* Handlers for in and in + 1; NULL: none. */
soft_fn x_fuse_jcc(const struct soft_insn *in);  /* fuse_jcc.c */
soft_fn x_fuse_pair(const struct soft_insn *in); /* fuse_pair.c */

#endif
