// SPDX-License-Identifier: Apache-2.0
/* SYSCALL, SYSRET, SYSENTER, SYSEXIT. Intel's way, and outside 64-bit mode AMD's where the policy's vendor is
 * not Intel. */
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/sys.h"

static struct soft_segment flat(uint16_t sel, uint8_t type, unsigned dpl, bool l)
{
    return (struct soft_segment){.limit = 0xffffffffu,
                                 .sel = sel,
                                 .type = type,
                                 .dpl = (uint8_t)dpl,
                                 .present = true,
                                 .s = true,
                                 .db = !l,
                                 .l = l,
                                 .g = true};
}

/* Flat CS and SS for `level`. */
static void enter(struct soft_cpu *c, uint16_t cs, uint16_t ss, unsigned level, bool l)
{
    c->seg[SOFT_CS] = flat(cs, 0xb, level, l);
    c->seg[SOFT_SS] = flat(ss, 0x3, level, false);
    c->cpl = (uint8_t)level;
    soft_mode_changed(c);
}

static bool intel(struct soft_cpu *c)
{
    struct soft_cpuid room;
    return sys_policy(c, &room)->intel;
}

SOFT_HANDLER(syscall)
{
    uint16_t cs = (uint16_t)(c->star >> 32) & 0xfffc;
    if (!(c->efer & SOFT_EFER_SCE) || !sys_protected(c) || (c->mode != SOFT_64 && intel(c)))
        return soft_raise(c, in, SOFT_UD);
    uint64_t flags = soft_rflags(c) & ~(uint64_t)SOFT_EFL_RF, rip = c->mode == SOFT_64 ? c->lstar : c->cstar;
    c->gpr[SOFT_RCX] = soft_rip_next(c, in);
    if (sys_long(c)) {
        c->gpr[11] = flags;
        soft_set_rflags(c, flags & ~c->fmask);
    } else {
        rip = (uint32_t)c->star;
        soft_set_rflags(c, flags & ~(uint64_t)(SOFT_EFL_IF | SOFT_EFL_VM));
    }
    enter(c, cs, (uint16_t)(cs + 8), 0, sys_long(c));
    return sys_go(c, in, rip);
}

SOFT_HANDLER(sysret)
{
    uint16_t sel = (uint16_t)(c->star >> 48);
    uint64_t rip = c->gpr[SOFT_RCX];
    bool wide = in->size == 8;
    if (!(c->efer & SOFT_EFER_SCE) || !sys_protected(c) || (c->mode != SOFT_64 && intel(c)))
        return soft_raise(c, in, SOFT_UD);
    if (c->cpl || (wide && !soft_canonical(rip)))
        return sys_gp0(c, in);
    if (sys_long(c))
        soft_set_rflags(c, c->gpr[11] & 0x3c7fd7u);
    else
        c->eflags |= SOFT_EFL_IF;
    enter(c, (uint16_t)((wide ? sel + 16 : sel) | 3), (uint16_t)((sel + 8) | 3), 3, wide);
    return sys_go(c, in, wide ? rip : (uint32_t)rip);
}

SOFT_HANDLER(sysenter)
{
    uint16_t cs = (uint16_t)c->sysenter_cs & 0xfffc;
    if (!(c->cr0 & SOFT_CR0_PE) || !cs)
        return sys_gp0(c, in);
    bool wide = sys_long(c);
    c->eflags &= ~(SOFT_EFL_VM | SOFT_EFL_IF);
    c->gpr[SOFT_RSP] = wide ? c->sysenter_esp : (uint32_t)c->sysenter_esp;
    enter(c, cs, (uint16_t)(cs + 8), 0, wide);
    return sys_go(c, in, wide ? c->sysenter_eip : (uint32_t)c->sysenter_eip);
}

SOFT_HANDLER(sysexit)
{
    uint16_t cs = (uint16_t)c->sysenter_cs & 0xfffc;
    uint64_t rip = c->gpr[SOFT_RDX], rsp = c->gpr[SOFT_RCX];
    bool wide = in->size == 8;
    if (!sys_protected(c) || c->cpl || !cs || (wide && (!soft_canonical(rip) || !soft_canonical(rsp))))
        return sys_gp0(c, in);
    c->gpr[SOFT_RSP] = wide ? rsp : (uint32_t)rsp;
    uint16_t to = (uint16_t)((wide ? cs + 32 : cs + 16) | 3);
    enter(c, to, (uint16_t)(to + 8), 3, wide);
    return sys_go(c, in, wide ? rip : (uint32_t)rip);
}
