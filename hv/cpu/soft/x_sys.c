// SPDX-License-Identifier: Apache-2.0
/* Flags that matter to the system, software interrupts, the TLB, clocks, and the rest. */
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/x_int.h"

#define KVM_ENOSYS 1000
#define KVM_EPERM 1
#define HC_VAPIC_POLL_IRQ 1
#define EFL_ARITH 0x8d5u

/* --- IF, AC, PUSHF, POPF --- */

/* May this code change IF? */
X_INLINE bool if_ok(const struct soft_cpu *c)
{
    return !(c->cr0 & SOFT_CR0_PE) || c->cpl <= sys_iopl(c); /* virtual-8086 mode runs at CPL 3 */
}

SOFT_HANDLER(cli)
{
    if (!if_ok(c))
        return sys_gp0(c, in);
    c->eflags &= ~SOFT_EFL_IF;
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(sti)
{
    if (!if_ok(c))
        return sys_gp0(c, in);
    if (c->eflags & SOFT_EFL_IF)
        return sys_go(c, in, soft_rip_next(c, in));
    c->eflags |= SOFT_EFL_IF;
    c->shadow = 1;
    return soft_done(c, in);
}

/* AC lifts SMAP: only the ways in force change. */
static soft_next set_ac(struct soft_cpu *c, const struct soft_insn *in, uint32_t ac)
{
    if (c->cpl)
        return soft_raise(c, in, SOFT_UD);
    uint64_t rip = soft_rip_next(c, in);
    if ((c->eflags & SOFT_EFL_AC) != ac) {
        c->eflags ^= SOFT_EFL_AC;
        soft_mode_changed(c);
    }
    return sys_go(c, in, rip);
}
SOFT_HANDLER(clac)
{
    return set_ac(c, in, 0);
}
SOFT_HANDLER(stac)
{
    return set_ac(c, in, SOFT_EFL_AC);
}

SOFT_HANDLER(pushf)
{
    if ((c->eflags & SOFT_EFL_VM) && sys_iopl(c) != 3)
        return sys_gp0(c, in);
    if (!x_push_at(c, in->size, in->size, soft_rflags(c) & ~(uint64_t)(SOFT_EFL_VM | SOFT_EFL_RF)))
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] - in->size);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(popf)
{
    uint32_t change = EFL_ARITH | SOFT_EFL_TF | SOFT_EFL_DF | SOFT_EFL_NT;
    if ((c->eflags & SOFT_EFL_VM) && sys_iopl(c) != 3)
        return sys_gp0(c, in);
    struct x_val v = x_peek(c, c->gpr[SOFT_RSP], in->size);
    if (!v.ok)
        return soft_fault(c, in);
    if (if_ok(c))
        change |= SOFT_EFL_IF;
    if (!c->cpl)
        change |= SOFT_EFL_IOPL;
    if (in->size > 2)
        change |= SOFT_EFL_AC | SOFT_EFL_ID;
    uint64_t rip = soft_rip_next(c, in);
    uint32_t old = c->eflags;
    x_set_sp(c, c->gpr[SOFT_RSP] + in->size);
    c->eflags = ((old & ~change) | ((uint32_t)v.v & change & ~EFL_ARITH)) & ~SOFT_EFL_RF;
    soft_cc_set(&c->cc, (uint32_t)v.v & EFL_ARITH);
    if ((old ^ c->eflags) & SOFT_EFL_AC)
        soft_mode_changed(c);
    return sys_go(c, in, rip);
}

/* --- software interrupts --- */

/* At the end c->rip is where the handler begins. */
static __attribute__((noinline)) bool deliver(struct soft_cpu *c, const struct soft_insn *in, unsigned vector,
                                              bool soft)
{
    struct sys_event ev = {
        .vector = (uint8_t)vector, .soft = soft, .internal = true, .rip = soft_rip_next(c, in)};
    return sys_deliver(c, &ev);
}

static soft_next interrupt(struct soft_cpu *c, const struct soft_insn *in, unsigned vector, bool soft)
{
    if (!deliver(c, in, vector, soft))
        return soft_fault(c, in);
    if (c->exc.pending)
        return soft_done_at(c, in, c->rip);
    return sys_go(c, in, c->rip);
}
SOFT_HANDLER(int)
{
    if ((c->eflags & SOFT_EFL_VM) && sys_iopl(c) != 3)
        return sys_gp0(c, in);
    return interrupt(c, in, (uint8_t)in->imm, true);
}
SOFT_HANDLER(int3)
{
    return interrupt(c, in, SOFT_BP, true);
}
SOFT_HANDLER(into)
{
    if (!soft_cc_of(&c->cc))
        return sys_go(c, in, soft_rip_next(c, in));
    return interrupt(c, in, SOFT_OFX, true);
}
SOFT_HANDLER(int1)
{
    return interrupt(c, in, SOFT_DB, false);
}

SOFT_HANDLER(hlt)
{
    if (c->cpl)
        return sys_gp0(c, in);
    c->leave = SOFT_LEAVE_HALT;
    return soft_done(c, in);
}

/* --- the TLB and caches --- */

SOFT_HANDLER(invlpg)
{
    uint64_t lin;
    if (c->cpl)
        return sys_gp0(c, in);
    uint64_t rip = soft_rip_next(c, in);
    lin = soft_ea_offset(c, in);
    if (in->asize < 8)
        lin &= in->asize == 4 ? 0xffffffffu : 0xffffu;
    if (in->ea & SOFT_EA_SEG)
        lin += c->seg[in->seg].base;
    soft_tlb_flush_page(c, c->mode == SOFT_64 ? lin : (uint32_t)lin);
    return sys_go(c, in, rip);
}

/* False: an exception is recorded. */
static __attribute__((noinline)) bool invalidate(struct soft_cpu *c, const struct soft_insn *in)
{
    uint64_t lin, d[2] = {0}, type = in->size == 8 ? c->gpr[in->reg] : (uint32_t)c->gpr[in->reg];
    if (!soft_ea(c, in, 16, SOFT_READ, &lin) || !soft_ld(c, lin, 16, d))
        return false;
    if (type > 3 || d[0] >> 12 || (type < 2 && d[0] && !(c->cr4 & SOFT_CR4_PCIDE)) ||
        (type == 0 && !soft_canonical(d[1]))) {
        soft_exc_error(c, SOFT_GP, 0);
        return false;
    }
    /* The ways know no PCIDs and are all of the current one. */
    if (type == 0)
        soft_tlb_flush_page(c, d[1]);
    else
        soft_tlb_flush(c);
    return true;
}

SOFT_HANDLER(invpcid)
{
    if (c->cpl || (c->eflags & SOFT_EFL_VM))
        return sys_gp0(c, in);
    uint64_t rip = soft_rip_next(c, in);
    return invalidate(c, in) ? sys_go(c, in, rip) : soft_fault(c, in);
}

SOFT_HANDLER(invd)
{
    if (c->cpl)
        return sys_gp0(c, in);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(wbinvd)
{
    if (c->cpl)
        return sys_gp0(c, in);
    SOFT_NEXT(c, in);
}

/* No policy offers them (features.c). */
SOFT_HANDLER(monitor)
{
    return soft_raise(c, in, SOFT_UD);
}
SOFT_HANDLER(mwait)
{
    return soft_raise(c, in, SOFT_UD);
}

/* KVM's hypercalls: none is offered. */
SOFT_HANDLER(vmcall)
{
    uint64_t number = c->mode == SOFT_64 ? c->gpr[SOFT_RAX] : (uint32_t)c->gpr[SOFT_RAX];
    int64_t r = c->cpl ? -KVM_EPERM : number == HC_VAPIC_POLL_IRQ ? 0 : -KVM_ENOSYS;
    c->gpr[SOFT_RAX] = c->mode == SOFT_64 ? (uint64_t)r : (uint32_t)r;
    return sys_go(c, in, soft_rip_next(c, in));
}

/* --- clocks --- */

X_INLINE bool tsc_ok(const struct soft_cpu *c)
{
    return !c->cpl || !(c->cr4 & SOFT_CR4_TSD);
}
X_INLINE void put_tsc(struct soft_cpu *c)
{
    uint64_t t = soft_tsc(c);
    c->gpr[SOFT_RAX] = (uint32_t)t;
    c->gpr[SOFT_RDX] = t >> 32;
}
SOFT_HANDLER(rdtsc)
{
    if (!tsc_ok(c))
        return sys_gp0(c, in);
    put_tsc(c);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(rdtscp)
{
    if (!tsc_ok(c))
        return sys_gp0(c, in);
    put_tsc(c);
    c->gpr[SOFT_RCX] = (uint32_t)c->tsc_aux;
    SOFT_NEXT(c, in);
}
/* There are no counters. */
SOFT_HANDLER(rdpmc)
{
    return sys_gp0(c, in);
}

/* --- bases --- */

SOFT_HANDLER(swapgs)
{
    if (c->cpl)
        return sys_gp0(c, in);
    uint64_t v = c->seg[SOFT_GS].base;
    c->seg[SOFT_GS].base = c->kernel_gs_base;
    c->kernel_gs_base = v;
    soft_bases_changed(c);
    SOFT_NEXT(c, in);
}

#define RDBASE(name, which)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (!(c->cr4 & SOFT_CR4_FSGSBASE))                                                                   \
            return soft_raise(c, in, SOFT_UD);                                                               \
        x_set(c, in->rm * 8u, in->size, c->seg[which].base);                                                 \
        SOFT_NEXT(c, in);                                                                                    \
    }
RDBASE(rdfsbase, SOFT_FS)
RDBASE(rdgsbase, SOFT_GS)
#define WRBASE(name, which)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        uint64_t v = in->size == 8 ? c->gpr[in->rm] : (uint32_t)c->gpr[in->rm];                              \
        if (!(c->cr4 & SOFT_CR4_FSGSBASE))                                                                   \
            return soft_raise(c, in, SOFT_UD);                                                               \
        if (!soft_canonical(v))                                                                              \
            return sys_gp0(c, in);                                                                           \
        c->seg[which].base = v;                                                                              \
        soft_bases_changed(c);                                                                               \
        SOFT_NEXT(c, in);                                                                                    \
    }
WRBASE(wrfsbase, SOFT_FS)
WRBASE(wrgsbase, SOFT_GS)
