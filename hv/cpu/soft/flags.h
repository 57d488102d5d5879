// SPDX-License-Identifier: Apache-2.0
/* Lazy arithmetic flags: an instruction leaves its result and operands here, and a reader computes what it
 * asks for. All values are kept sign-extended from the operand's size to 64 bits: zero and sign tests, and
 * both signed and unsigned order, are then the same for every size. */
#ifndef FERRY_SOFT_FLAGS_H
#define FERRY_SOFT_FLAGS_H

#include <stdbool.h>
#include <stdint.h>

struct soft_flags {
    uint64_t res, src, aux;
    uint32_t op;
};

#define SOFT_FL_C 0x001u
#define SOFT_FL_P 0x004u
#define SOFT_FL_A 0x010u
#define SOFT_FL_Z 0x040u
#define SOFT_FL_S 0x080u
#define SOFT_FL_O 0x800u
#define SOFT_FL_ALL 0x8d5u

/* What the fields mean. The second byte of `op` is 64 less the operand's bits. Instructions that change only
 * CF, OF or both (rotates, BT, MUL, CLC...) leave all that standing and put them into op's upper half. */
#define SOFT_CC_C_VALID 0x10000u
#define SOFT_CC_C 0x20000u
#define SOFT_CC_O_VALID 0x40000u
#define SOFT_CC_O 0x80000u
#define SOFT_CC_PURE                                                                                         \
    (SOFT_CC_C_VALID | SOFT_CC_O_VALID | 0xffu) /* kind alone, where neither is overridden                   \
                                                 */

enum soft_cc_op {
    SOFT_CC_RAW,   /* src: all six flags, as EFLAGS bits */
    SOFT_CC_RES,   /* ZF, SF, PF from res; src: CF, AF, OF as EFLAGS bits */
    SOFT_CC_LOGIC, /* ZF, SF, PF from res; the others 0 */
    SOFT_CC_ADD,   /* res = lhs + src */
    SOFT_CC_SUB,   /* aux - src; res is not stored */
    SOFT_CC_ADC,   /* res = aux + src + carry */
    SOFT_CC_SBB,   /* res = aux - src - carry */
    SOFT_CC_INC,   /* res = lhs + 1; src: CF, 0 or 1 */
    SOFT_CC_DEC    /* res = lhs - 1; src: CF, 0 or 1 */
};
#define SOFT_CC(kind, size) ((uint32_t)(kind) | (64u - 8u * (unsigned)(size)) << 8)

/* CF PF AF ZF SF OF as EFLAGS bits. */
uint32_t soft_cc_get(const struct soft_flags *f);
/* Set them all. */
void soft_cc_set(struct soft_flags *f, uint32_t arith);

static inline uint64_t soft_cc_trunc(const struct soft_flags *f, uint64_t v)
{
    unsigned sh = f->op >> 8 & 63;
    return (uint64_t)((int64_t)(v << sh) >> sh);
}

/* Change CF, or OF, or both, and nothing else. */
static inline void soft_cc_put_c(struct soft_flags *f, bool cf)
{
    f->op = (f->op & ~SOFT_CC_C) | SOFT_CC_C_VALID | (cf ? SOFT_CC_C : 0);
}
static inline void soft_cc_put_o(struct soft_flags *f, bool of)
{
    f->op = (f->op & ~SOFT_CC_O) | SOFT_CC_O_VALID | (of ? SOFT_CC_O : 0);
}
static inline void soft_cc_put_co(struct soft_flags *f, bool cf, bool of)
{
    f->op =
        (f->op & 0xffff) | SOFT_CC_C_VALID | SOFT_CC_O_VALID | (cf ? SOFT_CC_C : 0) | (of ? SOFT_CC_O : 0);
}

/* The result that ZF, SF and PF describe; not for SOFT_CC_RAW. */
static inline uint64_t soft_cc_res(const struct soft_flags *f)
{
    return (f->op & 0xff) == SOFT_CC_SUB ? soft_cc_trunc(f, f->aux - f->src) : f->res;
}

static inline bool soft_cc_cf(const struct soft_flags *f)
{
    uint64_t a = f->aux, b = f->src, r = f->res;
    if (f->op & SOFT_CC_C_VALID)
        return (f->op & SOFT_CC_C) != 0;
    switch (f->op & 0xff) {
    case SOFT_CC_LOGIC:
        return false;
    case SOFT_CC_ADD:
        return r < b;
    case SOFT_CC_SUB:
        return a < b;
    case SOFT_CC_ADC:
        return ((a & b) | ((a | b) & ~r)) >> 63;
    case SOFT_CC_SBB:
        return ((~a & b) | ((~a | b) & r)) >> 63;
    default:
        return b & 1;
    }
}

static inline bool soft_cc_zf(const struct soft_flags *f)
{
    unsigned op = f->op & 0xff;
    return op == SOFT_CC_SUB ? f->aux == f->src : op == SOFT_CC_RAW ? (f->src & SOFT_FL_Z) != 0 : f->res == 0;
}

static inline bool soft_cc_sf(const struct soft_flags *f)
{
    return (f->op & 0xff) == SOFT_CC_RAW ? (f->src & SOFT_FL_S) != 0 : (int64_t)soft_cc_res(f) < 0;
}

static inline bool soft_cc_pf(const struct soft_flags *f)
{
    if ((f->op & 0xff) == SOFT_CC_RAW)
        return (f->src & SOFT_FL_P) != 0;
    return !__builtin_parity((unsigned)soft_cc_res(f) & 0xff);
}

/* OF and AF, the rare ones. */
bool soft_cc_of(const struct soft_flags *f);
bool soft_cc_af(const struct soft_flags *f);

/* Does condition cc (0..15, as in Jcc's opcode) hold? Cheap where cc is a constant. */
static inline bool soft_cc_test(const struct soft_flags *f, unsigned cc)
{
    unsigned op = f->op & SOFT_CC_PURE;
    bool v = false;
    switch (cc >> 1 & 7) {
    case 0:
        v = soft_cc_of(f);
        break;
    case 1:
        v = soft_cc_cf(f);
        break;
    case 2:
        v = soft_cc_zf(f);
        break;
    case 3:
        v = op == SOFT_CC_SUB ? f->aux <= f->src : soft_cc_zf(f) || soft_cc_cf(f);
        break;
    case 4:
        v = soft_cc_sf(f);
        break;
    case 5:
        v = soft_cc_pf(f);
        break;
    case 6:
        v = op == SOFT_CC_SUB     ? (int64_t)f->aux < (int64_t)f->src
            : op == SOFT_CC_LOGIC ? (int64_t)f->res < 0
                                  : soft_cc_sf(f) != soft_cc_of(f);
        break;
    default:
        v = op == SOFT_CC_SUB     ? (int64_t)f->aux <= (int64_t)f->src
            : op == SOFT_CC_LOGIC ? (int64_t)f->res <= 0
                                  : soft_cc_zf(f) || soft_cc_sf(f) != soft_cc_of(f);
        break;
    }
    return v != (cc & 1);
}

#endif
