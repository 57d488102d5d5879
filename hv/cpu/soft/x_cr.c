// SPDX-License-Identifier: Apache-2.0
/* Control and debug registers, XCR0. Source: Intel SDM volume 3A, 2.5, 4.1, 4.10.4, 17.2. */
#include "hv/cpu/features.h"
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"

#define CR0_BITS 0xe005003full
#define CR3_NO_FLUSH (1ull << 63)
#define DR6_ONES 0xffff0ff0u
#define DR6_BITS 0xe00fu
#define DR6_BD 0x2000u
#define DR7_BITS 0xffff23ffu
#define DR7_ONES 0x400u
#define DR7_GD 0x2000u
#define XCR0_X87 1u
#define XCR0_SSE 2u
#define XCR0_AVX 4u

static bool gp0(struct soft_cpu *c)
{
    return sys_fail(c, SOFT_GP, 0);
}

static bool pae_tables(uint64_t cr0, uint64_t cr4, uint64_t efer)
{
    return (cr0 & SOFT_CR0_PG) && (cr4 & SOFT_CR4_PAE) && !(efer & SOFT_EFER_LMA);
}

static bool write_cr0(struct soft_cpu *c, uint64_t v)
{
    uint64_t efer = c->efer;
    if (v >> 32)
        return gp0(c);
    v = (v & CR0_BITS) | SOFT_CR0_ET;
    uint64_t change = v ^ c->cr0;
    if (((v & SOFT_CR0_PG) && !(v & SOFT_CR0_PE)) || ((v & SOFT_CR0_NW) && !(v & SOFT_CR0_CD)))
        return gp0(c);
    if (change & v & SOFT_CR0_PG && efer & SOFT_EFER_LME) {
        if (!(c->cr4 & SOFT_CR4_PAE) || c->seg[SOFT_CS].l)
            return gp0(c);
        efer |= SOFT_EFER_LMA;
    } else if (change & ~v & SOFT_CR0_PG) {
        if (c->mode == SOFT_64 || (c->cr4 & SOFT_CR4_PCIDE))
            return gp0(c);
        efer &= ~(uint64_t)SOFT_EFER_LMA;
    }
    if (change & (SOFT_CR0_PG | SOFT_CR0_CD | SOFT_CR0_NW) && pae_tables(v, c->cr4, efer) &&
        !soft_load_pdptrs(c, c->cr3))
        return false;
    c->cr0 = v;
    c->efer = efer;
    if (change & (SOFT_CR0_PG | SOFT_CR0_WP | SOFT_CR0_PE))
        soft_tlb_flush(c);
    if (change & SOFT_CR0_PE)
        c->cpl = 0;
    if (change & ~(uint64_t)SOFT_CR0_TS)
        soft_mode_changed(c);
    return true;
}

static bool write_cr3(struct soft_cpu *c, uint64_t v)
{
    if (sys_long(c)) {
        if (c->cr4 & SOFT_CR4_PCIDE)
            v &= ~CR3_NO_FLUSH; /* flushing all the same is allowed */
        if (v & ~(c->vm->phys_limit - 1))
            return gp0(c);
    } else {
        v = (uint32_t)v;
        if (pae_tables(c->cr0, c->cr4, c->efer) && !soft_load_pdptrs(c, v))
            return false;
    }
    c->cr3 = v;
    soft_tlb_flush(c);
    return true;
}

static bool write_cr4(struct soft_cpu *c, uint64_t v)
{
    struct soft_cpuid room;
    const uint64_t paging = SOFT_CR4_PAE | SOFT_CR4_PSE | SOFT_CR4_PGE | SOFT_CR4_SMEP;
    uint64_t change = v ^ c->cr4;
    if (v & ~sys_policy(c, &room)->cr4)
        return gp0(c);
    if (sys_long(c) && !(v & SOFT_CR4_PAE))
        return gp0(c);
    if ((change & v & SOFT_CR4_PCIDE) && (!sys_long(c) || (c->cr3 & 0xfff)))
        return gp0(c);
    if ((change & paging) && pae_tables(c->cr0, v, c->efer) && !soft_load_pdptrs(c, c->cr3))
        return false;
    c->cr4 = v;
    if (change & (paging | SOFT_CR4_SMAP | SOFT_CR4_PCIDE))
        soft_tlb_flush(c);
    soft_mode_changed(c);
    return true;
}

static bool write_cr8(struct soft_cpu *c, uint64_t v)
{
    if (v > 15)
        return gp0(c);
    soft_lapic_set_tpr(c, v);
    return true;
}

SOFT_HANDLER(mov_to_cr)
{
    uint64_t v = in->size == 8 ? c->gpr[in->rm] : (uint32_t)c->gpr[in->rm];
    bool ok = true;
    if (c->cpl)
        return sys_gp0(c, in);
    uint64_t next = soft_rip_next(c, in);
    switch (in->reg) {
    case 0:
        ok = write_cr0(c, v);
        break;
    case 2:
        c->cr2 = v;
        break;
    case 3:
        ok = write_cr3(c, v);
        break;
    case 4:
        ok = write_cr4(c, v);
        break;
    default:
        ok = write_cr8(c, v);
        break;
    }
    return ok ? sys_go(c, in, next) : soft_fault(c, in);
}

SOFT_HANDLER(mov_from_cr)
{
    uint64_t v;
    if (c->cpl)
        return sys_gp0(c, in);
    switch (in->reg) {
    case 0:
        v = c->cr0;
        break;
    case 2:
        v = c->cr2;
        break;
    case 3:
        v = c->cr3;
        break;
    case 4:
        v = c->cr4;
        break;
    default:
        v = soft_lapic_tpr(c);
        break;
    }
    c->gpr[in->rm] = in->size == 8 ? v : (uint32_t)v;
    SOFT_NEXT(c, in);
}

/* Which debug register, -1: exception recorded. */
static int debug_register(struct soft_cpu *c, unsigned reg)
{
    if (c->cpl) {
        gp0(c);
        return -1;
    }
    if (reg == 4 || reg == 5) {
        if (c->cr4 & SOFT_CR4_DE) {
            soft_exc(c, SOFT_UD);
            return -1;
        }
        reg += 2;
    }
    if (c->dr[7] & DR7_GD) {
        soft_exc(c, SOFT_DB);
        c->exc.dr6 = DR6_BD;
        return -1;
    }
    return (int)reg;
}

SOFT_HANDLER(mov_to_dr)
{
    uint64_t v = in->size == 8 ? c->gpr[in->rm] : (uint32_t)c->gpr[in->rm];
    int reg = debug_register(c, in->reg);
    if (reg < 0)
        return soft_fault(c, in);
    if (reg >= 6 && v >> 32)
        return sys_gp0(c, in);
    if (reg == 6)
        v = (v & DR6_BITS) | DR6_ONES;
    else if (reg == 7)
        v = (v & DR7_BITS & ~0xc000u) | DR7_ONES;
    c->dr[reg] = v;
    soft_mode_changed(c);
    return sys_go(c, in, soft_rip_next(c, in));
}

SOFT_HANDLER(mov_from_dr)
{
    int reg = debug_register(c, in->reg);
    if (reg < 0)
        return soft_fault(c, in);
    c->gpr[in->rm] = in->size == 8 ? c->dr[reg] : (uint32_t)c->dr[reg];
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(clts)
{
    if (c->cpl)
        return sys_gp0(c, in);
    c->cr0 &= ~(uint64_t)SOFT_CR0_TS;
    return sys_go(c, in, soft_rip_next(c, in));
}

/* The low four bits, but PE is never cleared. Not inlined, here as elsewhere: a handler with a variable whose
 * address is known elsewhere cannot end in a jump. */
static __attribute__((noinline)) bool load_msw(struct soft_cpu *c, const struct soft_insn *in)
{
    uint16_t v = (uint16_t)c->gpr[in->rm];
    uint64_t lin;
    if ((in->flags & SOFT_I_MEM) && (!soft_ea(c, in, 2, SOFT_READ, &lin) || !soft_ld16(c, lin, &v)))
        return false;
    return write_cr0(c, (c->cr0 & ~0xeull) | (v & 15));
}

SOFT_HANDLER(lmsw)
{
    if (c->cpl)
        return sys_gp0(c, in);
    uint64_t next = soft_rip_next(c, in);
    return load_msw(c, in) ? sys_go(c, in, next) : soft_fault(c, in);
}

static __attribute__((noinline)) bool has_xgetbv1(struct soft_cpu *c)
{
    struct soft_cpuid room;
    const struct soft_cpuid *p = sys_policy(c, &room);
    for (size_t i = 0; i < p->count; i++)
        if (p->leaf[i].function == 0xd && p->leaf[i].index == 1)
            return p->leaf[i].r[FY_EAX] & 4;
    return false;
}

/* Which components are in use (index 1) may be answered with all that are enabled. */
SOFT_HANDLER(xgetbv)
{
    uint32_t index = (uint32_t)c->gpr[SOFT_RCX];
    if (!(c->cr4 & SOFT_CR4_OSXSAVE))
        return soft_raise(c, in, SOFT_UD);
    if (index > 1 || (index == 1 && !has_xgetbv1(c)))
        return sys_gp0(c, in);
    c->gpr[SOFT_RAX] = (uint32_t)c->xcr0;
    c->gpr[SOFT_RDX] = c->xcr0 >> 32;
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(xsetbv)
{
    uint64_t v = (uint32_t)c->gpr[SOFT_RAX] | c->gpr[SOFT_RDX] << 32;
    if (!(c->cr4 & SOFT_CR4_OSXSAVE))
        return soft_raise(c, in, SOFT_UD);
    if (c->cpl || (uint32_t)c->gpr[SOFT_RCX] || !(v & XCR0_X87) || (v & ~fy_cpu_xcr0(c->vm->policy)) ||
        ((v & XCR0_AVX) && !(v & XCR0_SSE)))
        return sys_gp0(c, in);
    c->xcr0 = v;
    return sys_go(c, in, soft_rip_next(c, in));
}
