// SPDX-License-Identifier: Apache-2.0
/* BMI1, BMI2, ADX: registers and 32 or 64 bits only. */
#include "hv/cpu/soft/x_int.h"

#define VREG(in) (8u * ((in)->vvvv & 15u))

/* dst = reg, first source = vvvv, second = rm; or dst = vvvv for the BLS group. */
enum x_bmi {
    X_ANDN,
    X_BEXTR,
    X_BLSI,
    X_BLSMSK,
    X_BLSR,
    X_BZHI,
    X_PDEP,
    X_PEXT,
    X_RORX,
    X_SARX,
    X_SHLX,
    X_SHRX
};

static uint64_t x_deposit(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (; mask; mask &= mask - 1, v >>= 1)
        r |= v & 1 ? mask & (0 - mask) : 0;
    return r;
}
static uint64_t x_extract(uint64_t v, uint64_t mask)
{
    uint64_t r = 0;
    for (unsigned n = 0; mask; mask &= mask - 1, n++)
        r |= (uint64_t)((v & mask & (0 - mask)) != 0) << n;
    return r;
}

/* rm: the rm operand; v: the register in vvvv. */
X_INLINE uint64_t x_bmi_calc(enum x_bmi op, uint64_t rm, uint64_t v, uint64_t imm, unsigned size)
{
    unsigned bits = 8 * size, n = (unsigned)v & (bits - 1), start = v & 0xff, len = v >> 8 & 0xff;
    switch (op) {
    case X_ANDN:
        return ~v & rm;
    case X_BEXTR:
        rm = start < bits ? rm >> start : 0;
        return len < 64 ? rm & (((uint64_t)1 << len) - 1) : rm;
    case X_BLSI:
        return rm & (0 - rm);
    case X_BLSMSK:
        return rm ^ (rm - 1);
    case X_BLSR:
        return rm & (rm - 1);
    case X_BZHI:
        return start < bits ? rm & (((uint64_t)1 << start) - 1) : rm;
    case X_PDEP:
        return x_deposit(v, rm);
    case X_PEXT:
        return x_extract(v, rm);
    case X_RORX:
        n = (unsigned)imm & (bits - 1);
        return rm >> n | rm << ((bits - n) & (bits - 1));
    case X_SARX:
        return (uint64_t)((int64_t)x_sx(rm, size) >> n);
    case X_SHLX:
        return rm << n;
    default:
        return rm >> n;
    }
}

X_INLINE void x_bmi_flags(struct soft_cpu *c, enum x_bmi op, uint64_t rm, uint64_t v, uint64_t r,
                          unsigned size)
{
    switch (op) {
    case X_ANDN:
        x_cc_logic(c, size, r);
        break;
    case X_BEXTR: /* AF is undefined, and 1 on Zen 4 */
        x_cc_res(c, size, r, SOFT_FL_A);
        break;
    case X_BLSI:
        x_cc_res(c, size, r, rm != 0 ? SOFT_FL_C : 0);
        break;
    case X_BLSMSK:
    case X_BLSR:
        x_cc_res(c, size, r, rm == 0 ? SOFT_FL_C : 0);
        break;
    case X_BZHI:
        x_cc_res(c, size, r, (v & 0xff) >= 8 * size ? SOFT_FL_C : 0);
        break;
    default:
        break;
    }
}

/* VEX is #UD in real and virtual-8086 mode, also for integers. */
X_INLINE bool x_vex_ok(const struct soft_cpu *c)
{
    return SOFT_LIKELY(c->mode != SOFT_16) || (c->cr0 & SOFT_CR0_PE && !(c->eflags & SOFT_EFL_VM));
}

X_INLINE soft_next x_bmi_any(struct soft_cpu *c, const struct soft_insn *in, enum x_bmi op, unsigned size)
{
    if (!x_vex_ok(c))
        return soft_raise(c, in, SOFT_UD);
    struct x_val rm = x_rm(c, in, size);
    uint64_t v = x_reg(c, VREG(in), size), r;
    if (!rm.ok)
        return soft_fault(c, in);
    r = x_zx(x_bmi_calc(op, rm.v, v, in->imm, size), size);
    x_set(c, op >= X_BLSI && op <= X_BLSR ? VREG(in) : in->reg_at, size, r);
    x_bmi_flags(c, op, rm.v, v, r, size);
    SOFT_NEXT(c, in);
}
#define BMI(name, OP)                                                                                        \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (in->size == 8)                                                                                   \
            return x_bmi_any(c, in, OP, 8);                                                                  \
        return x_bmi_any(c, in, OP, 4);                                                                      \
    }
BMI(andn, X_ANDN)
BMI(bextr, X_BEXTR)
BMI(blsi, X_BLSI)
BMI(blsmsk, X_BLSMSK)
BMI(blsr, X_BLSR)
BMI(bzhi, X_BZHI)
BMI(pdep, X_PDEP)
BMI(pext, X_PEXT)
BMI(rorx, X_RORX)
BMI(sarx, X_SARX)
BMI(shlx, X_SHLX)
BMI(shrx, X_SHRX)

/* reg:vvvv = rDX * rm; where both name one register it gets the high half. */
SOFT_HANDLER(mulx)
{
    unsigned size = in->size == 8 ? 8 : 4;
    if (!x_vex_ok(c))
        return soft_raise(c, in, SOFT_UD);
    struct x_val rm = x_rm(c, in, size);
    unsigned __int128 r;
    if (!rm.ok)
        return soft_fault(c, in);
    r = (unsigned __int128)x_reg(c, 8 * SOFT_RDX, size) * rm.v;
    x_set(c, VREG(in), size, (uint64_t)r);
    x_set(c, in->reg_at, size, (uint64_t)(r >> (8 * size)));
    SOFT_NEXT(c, in);
}

/* ADCX carries in CF, ADOX in OF; other flags stay. */
X_INLINE soft_next x_adx(struct soft_cpu *c, const struct soft_insn *in, uint32_t flag, unsigned size)
{
    struct x_val rm = x_rm(c, in, size);
    unsigned __int128 r;
    if (!rm.ok)
        return soft_fault(c, in);
    r = (unsigned __int128)x_reg(c, in->reg_at, size) + rm.v;
    r += flag == SOFT_FL_C ? soft_cc_cf(&c->cc) : soft_cc_of(&c->cc);
    x_set(c, in->reg_at, size, (uint64_t)r);
    if (flag == SOFT_FL_C)
        soft_cc_put_c(&c->cc, r >> (8 * size) != 0);
    else
        soft_cc_put_o(&c->cc, r >> (8 * size) != 0);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(adcx)
{
    if (in->size == 8)
        return x_adx(c, in, SOFT_FL_C, 8);
    return x_adx(c, in, SOFT_FL_C, 4);
}
SOFT_HANDLER(adox)
{
    if (in->size == 8)
        return x_adx(c, in, SOFT_FL_O, 8);
    return x_adx(c, in, SOFT_FL_O, 4);
}
