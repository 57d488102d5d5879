// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_SOFT_DECODE_H
#define FERRY_SOFT_DECODE_H

#include "hv/cpu/soft/insn.h"
#include "hv/cpu/soft/optable.h"

#define SOFT_INSN_MAX 15

enum {
    SOFT_DECODE_MORE = 0, /* the instruction goes on beyond the bytes given */
    SOFT_DECODE_UD = -1,  /* #UD */
    SOFT_DECODE_GP = -2   /* longer than 15 bytes: #GP(0) */
};

/* Decode one instruction from bytes[0..avail). features: a set of 1ull << enum soft_feature. Fills all of
 * *out but fn and off (0); out->row names the row. Returns the length 1..15, or one of the above, when *out
 * is undefined but for out->len: the bytes looked at. Pure; any thread. */
int soft_decode(const uint8_t *bytes, unsigned avail, enum soft_mode mode, uint64_t features,
                struct soft_insn *out);

#endif
