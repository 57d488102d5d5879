// SPDX-License-Identifier: Apache-2.0
/* IN, OUT, INS, OUTS. Permission: Intel SDM volume 1, 19.5. */
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/x_int.h"

#define TSS_IO_BASE 102u

/* The TSS's bitmap: every port of the access must be clear. */
static __attribute__((noinline)) bool bitmap_ok(struct soft_cpu *c, uint16_t port, unsigned size)
{
    const struct soft_segment *tr = &c->seg[SOFT_TR];
    uint16_t base, bits;
    if (tr->unusable || !tr->present || (tr->type != SYS_TSS && tr->type != SYS_TSS_BUSY) ||
        tr->limit < TSS_IO_BASE + 1)
        return sys_fail(c, SOFT_GP, 0);
    if (!sys_read(c, tr->base + TSS_IO_BASE, 2, &base, SOFT_MMU_KERNEL))
        return false;
    uint32_t at = base + port / 8u;
    if (at + 1 > tr->limit)
        return sys_fail(c, SOFT_GP, 0);
    if (!sys_read(c, tr->base + at, 2, &bits, SOFT_MMU_KERNEL))
        return false;
    return !(bits >> (port & 7) & ((1u << size) - 1)) || sys_fail(c, SOFT_GP, 0);
}
X_INLINE bool port_ok(struct soft_cpu *c, uint16_t port, unsigned size)
{
    if (!(c->cr0 & SOFT_CR0_PE) || (c->cpl <= sys_iopl(c) && !(c->eflags & SOFT_EFL_VM)))
        return true;
    return bitmap_ok(c, port, size);
}

X_INLINE soft_next in_port(struct soft_cpu *c, const struct soft_insn *in, uint16_t port)
{
    if (!port_ok(c, port, in->size))
        return soft_fault(c, in);
    x_set(c, 0, in->size, soft_port_read(c, port, in->size));
    SOFT_NEXT(c, in);
}
X_INLINE soft_next out_port(struct soft_cpu *c, const struct soft_insn *in, uint16_t port)
{
    if (!port_ok(c, port, in->size))
        return soft_fault(c, in);
    soft_port_write(c, port, in->size, (uint32_t)x_reg(c, 0, in->size));
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(in_imm)
{
    return in_port(c, in, (uint8_t)in->imm);
}
SOFT_HANDLER(in_dx)
{
    return in_port(c, in, (uint16_t)c->gpr[SOFT_RDX]);
}
SOFT_HANDLER(out_imm)
{
    return out_port(c, in, (uint8_t)in->imm);
}
SOFT_HANDLER(out_dx)
{
    return out_port(c, in, (uint16_t)c->gpr[SOFT_RDX]);
}

static uint64_t amask(const struct soft_insn *in)
{
    return in->asize == 8 ? UINT64_MAX : in->asize == 4 ? 0xffffffffu : 0xffffu;
}
static void move(struct soft_cpu *c, unsigned reg, uint64_t by, unsigned asize)
{
    uint64_t v = c->gpr[reg] + by;
    c->gpr[reg] = asize == 8 ? v : asize == 4 ? (uint32_t)v : (c->gpr[reg] & ~0xffffull) | (uint16_t)v;
}

/* One element. The destination is checked before the port is read: reading it may have an effect. */
static bool one(struct soft_cpu *c, const struct soft_insn *in, bool input)
{
    unsigned reg = input ? SOFT_RDI : SOFT_RSI, size = in->size;
    uint64_t off = c->gpr[reg] & amask(in), lin;
    uint16_t port = (uint16_t)c->gpr[SOFT_RDX];
    uint32_t v[8] = {0}; /* as large as any access may be */
    enum soft_access how = input ? SOFT_WRITE : SOFT_READ;
    if (!port_ok(c, port, size) || !soft_linear(c, input ? SOFT_ES : in->seg, off, size, how, &lin))
        return false;
    if (input) {
        if (!soft_probe(c, lin, size, SOFT_WRITE))
            return false;
        v[0] = soft_port_read(c, port, size);
        if (!soft_st(c, lin, size, v))
            return false;
    } else {
        if (!soft_ld(c, lin, size, v))
            return false;
        soft_port_write(c, port, size, v[0]);
    }
    move(c, reg, c->eflags & SOFT_EFL_DF ? 0 - (uint64_t)size : size, in->asize);
    return true;
}

enum io_end { IO_DONE, IO_FAULT, IO_AGAIN };
struct io_rep {
    uint64_t n;
    enum io_end end;
};

#define IO_MAX 1024u /* elements before requests are looked at */

static __attribute__((noinline)) struct io_rep string(struct soft_cpu *c, const struct soft_insn *in,
                                                      bool input)
{
    bool rep = in->flags & (SOFT_I_REP | SOFT_I_REPNE);
    uint64_t count = rep ? c->gpr[SOFT_RCX] & amask(in) : 1;
    uint64_t room = rep ? soft_rep_room(c) : 1, most = count < room ? count : room;
    struct io_rep r = {0, IO_DONE};
    most = most < IO_MAX ? most : IO_MAX;
    while (r.n < most) {
        if (!one(c, in, input)) {
            r.end = IO_FAULT;
            return r;
        }
        r.n++;
        if (rep)
            move(c, SOFT_RCX, UINT64_MAX, in->asize);
    }
    r.end = r.n < count ? IO_AGAIN : IO_DONE;
    return r;
}

#define STRING(name, input)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        struct io_rep r = string(c, in, input);                                                              \
        if (SOFT_UNLIKELY(r.end == IO_AGAIN))                                                                \
            return soft_again(c, in, r.n);                                                                   \
        if (SOFT_UNLIKELY(r.end == IO_FAULT)) {                                                              \
            soft_rep_count(c, r.n + 1);                                                                      \
            return soft_fault(c, in);                                                                        \
        }                                                                                                    \
        soft_rep_count(c, r.n);                                                                              \
        SOFT_NEXT(c, in);                                                                                    \
    }
STRING(ins, true)
STRING(outs, false)
