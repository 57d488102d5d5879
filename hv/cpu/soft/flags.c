// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/flags.h"

bool soft_cc_of(const struct soft_flags *f)
{
    uint64_t a = f->aux, b = f->src, r = f->res, least = (uint64_t)(INT64_MIN >> (f->op >> 8 & 63));
    if (f->op & SOFT_CC_O_VALID)
        return (f->op & SOFT_CC_O) != 0;
    switch (f->op & 0xff) {
    case SOFT_CC_LOGIC:
        return false;
    case SOFT_CC_ADD:
        a = soft_cc_trunc(f, r - b);
        return (~(a ^ b) & (a ^ r)) >> 63;
    case SOFT_CC_ADC:
        return (~(a ^ b) & (a ^ r)) >> 63;
    case SOFT_CC_SUB:
        r = soft_cc_trunc(f, a - b);
        return ((a ^ b) & (a ^ r)) >> 63;
    case SOFT_CC_SBB:
        return ((a ^ b) & (a ^ r)) >> 63;
    case SOFT_CC_INC:
        return r == least;
    case SOFT_CC_DEC:
        return r == ~least;
    default:
        return (b & SOFT_FL_O) != 0;
    }
}

bool soft_cc_af(const struct soft_flags *f)
{
    uint64_t a = f->aux, b = f->src, r = f->res;
    switch (f->op & 0xff) {
    case SOFT_CC_LOGIC:
        return false;
    case SOFT_CC_ADD:
        return ((r - b) ^ b ^ r) >> 4 & 1;
    case SOFT_CC_SUB:
        return (a ^ b ^ (a - b)) >> 4 & 1;
    case SOFT_CC_ADC:
    case SOFT_CC_SBB:
        return (a ^ b ^ r) >> 4 & 1;
    case SOFT_CC_INC:
        return (r & 0xf) == 0;
    case SOFT_CC_DEC:
        return (r & 0xf) == 0xf;
    default:
        return (b & SOFT_FL_A) != 0;
    }
}

uint32_t soft_cc_get(const struct soft_flags *f)
{
    uint32_t v = 0;
    if ((f->op & SOFT_CC_PURE) == SOFT_CC_RAW)
        return (uint32_t)f->src & SOFT_FL_ALL;
    if ((f->op & 0xff) == SOFT_CC_RAW)
        v = (uint32_t)f->src & (SOFT_FL_P | SOFT_FL_A | SOFT_FL_Z | SOFT_FL_S);
    v |= soft_cc_cf(f) ? SOFT_FL_C : 0;
    v |= soft_cc_pf(f) ? SOFT_FL_P : 0;
    v |= soft_cc_af(f) ? SOFT_FL_A : 0;
    v |= soft_cc_zf(f) ? SOFT_FL_Z : 0;
    v |= soft_cc_sf(f) ? SOFT_FL_S : 0;
    v |= soft_cc_of(f) ? SOFT_FL_O : 0;
    return v;
}

void soft_cc_set(struct soft_flags *f, uint32_t arith)
{
    f->src = arith & SOFT_FL_ALL;
    f->op = SOFT_CC_RAW;
}
