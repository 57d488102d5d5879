// SPDX-License-Identifier: Apache-2.0
/* Power-on, INIT, and the report of a guest that cannot go on. Source: Intel SDM volume 3A, table 9-1. */
#include <stdarg.h>
#include <stdio.h>

#include "hv/cpu/cpu.h"
#include "hv/cpu/features.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"

#define APIC_BASE 0xfee00000u
#define APIC_ENABLED 0x800u
#define APIC_BSP 0x100u
#define PAT_RESET 0x0007040600070406ull
#define SMBASE_RESET 0x30000u

static uint32_t signature(const struct soft_cpu *c)
{
    const Ferry__CpuPolicy *p = c->vm->policy;
    for (size_t i = 0; i < p->n_cpuid; i++)
        if (p->cpuid[i]->function == 1)
            return p->cpuid[i]->eax;
    return 0x600;
}

/* What power-on and INIT have in common. */
static void common(struct soft_cpu *c)
{
    memset(c->gpr, 0, sizeof c->gpr);
    c->gpr[SOFT_RDX] = signature(c);
    c->rip = 0xfff0;
    soft_set_rflags(c, SOFT_EFL_FIXED);
    for (unsigned i = 0; i < SOFT_LDTR; i++)
        c->seg[i] = sys_real(0, false);
    c->seg[SOFT_CS].sel = 0xf000;
    c->seg[SOFT_CS].base = 0xffff0000u;
    c->seg[SOFT_CS].type = 0xb;
    c->seg[SOFT_LDTR] = (struct soft_segment){.limit = 0xffff, .type = SYS_LDT, .present = true};
    c->seg[SOFT_TR] = (struct soft_segment){.limit = 0xffff, .type = SYS_TSS_BUSY, .present = true};
    c->gdt = c->idt = (struct soft_table){.limit = 0xffff};
    c->cpl = 0;
    c->cr2 = c->cr3 = c->cr4 = c->efer = 0;
    memset(c->pdptr, 0, sizeof c->pdptr);
    memset(c->dr, 0, sizeof c->dr);
    c->dr[6] = 0xffff0ff0u;
    c->dr[7] = 0x400;
    c->shadow = 0;
    c->injected = false;
    __atomic_store_n(&c->nmi_pending, false, __ATOMIC_RELAXED);
    c->nmi_masked = false;
}

void soft_cpu_power_on(struct soft_cpu *c)
{
    common(c);
    c->cr0 = SOFT_CR0_ET | SOFT_CR0_NW | SOFT_CR0_CD;
    c->xcr0 = 1;
    c->mxcsr = 0x1f80;
    memset(c->ymm, 0, sizeof c->ymm);
    memset(&c->fpu, 0, sizeof c->fpu);
    c->fpu.fcw = 0x40;
    c->fpu.ftw = 0xff;
    c->star = c->lstar = c->cstar = c->fmask = c->kernel_gs_base = c->tsc_aux = 0;
    c->sysenter_cs = c->sysenter_esp = c->sysenter_eip = 0;
    c->pat = PAT_RESET;
    c->misc_enable = 1; /* fast strings */
    c->apic_base = APIC_BASE | APIC_ENABLED | (c->index ? 0 : APIC_BSP);
    c->tsc_deadline = c->tsc_adjust = c->spec_ctrl = 0;
    c->smbase = SMBASE_RESET;
    c->mtrr_def = 0;
    memset(c->mtrr_fixed, 0, sizeof c->mtrr_fixed);
    memset(c->mtrr_base, 0, sizeof c->mtrr_base);
    memset(c->mtrr_mask, 0, sizeof c->mtrr_mask);
    c->mcg_status = 0;
    c->mcg_ctl = ~0ull;
    memset(c->mc, 0, sizeof c->mc);
    for (unsigned i = 0; i < 32; i++)
        c->mc[4 * i] = ~0ull;
    c->kvm_wall_clock = c->kvm_system_time = c->kvm_steal_time = 0;
    c->kvm_async_pf = c->kvm_pv_eoi = 0;
    c->kvm_poll_control = 1;
}

void soft_cpu_init(struct soft_cpu *c)
{
    common(c);
    c->cr0 = SOFT_CR0_ET | (c->cr0 & (SOFT_CR0_NW | SOFT_CR0_CD));
}

/* --- the report, in the form of hv/cpu/kvm/report.c --- */

struct text {
    char *p;
    size_t len;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p + t->len, FY_REPORT_MAX - t->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += (size_t)n < FY_REPORT_MAX - t->len ? (size_t)n : FY_REPORT_MAX - t->len - 1;
}

static void add_bytes(struct soft_cpu *c, struct text *t, uint64_t lin)
{
    struct soft_span s;
    uint8_t b[16] = {0};
    unsigned n = 4096 - (lin & 0xfff) < sizeof b ? 4096 - (lin & 0xfff) : (unsigned)sizeof b;
    if (soft_resolve(c, lin, n, SOFT_FETCH, c->mmu, &s) && s.host)
        soft_copy(b, s.host, n);
    else
        n = 0;
    add(t, "bytes at rip:");
    for (unsigned i = 0; i < n; i++)
        add(t, " %02x", b[i]);
    add(t, n ? "\n" : " not readable\n");
}

static void report(struct soft_cpu *c, const char *why)
{
    struct text t = {.p = c->report};
    const struct soft_segment *s = c->seg;
    const uint64_t *r = c->gpr;
#define U(x) ((unsigned long long)(x))
    add(&t, "vCPU %u: %s\n", c->index, why);
    add(&t, "rax %016llx rbx %016llx rcx %016llx rdx %016llx\n", U(r[0]), U(r[3]), U(r[1]), U(r[2]));
    add(&t, "rsi %016llx rdi %016llx rsp %016llx rbp %016llx\n", U(r[6]), U(r[7]), U(r[4]), U(r[5]));
    add(&t, "r8  %016llx r9  %016llx r10 %016llx r11 %016llx\n", U(r[8]), U(r[9]), U(r[10]), U(r[11]));
    add(&t, "r12 %016llx r13 %016llx r14 %016llx r15 %016llx\n", U(r[12]), U(r[13]), U(r[14]), U(r[15]));
    add(&t, "rip %016llx rflags %llx efer %llx\n", U(c->rip), U(soft_rflags(c)), U(c->efer));
    add(&t, "cr0 %llx cr2 %llx cr3 %llx cr4 %llx\n", U(c->cr0), U(c->cr2), U(c->cr3), U(c->cr4));
    add(&t, "cs %04x base %llx ss %04x base %llx ds %04x es %04x fs %04x gs %04x tr %04x\n", s[SOFT_CS].sel,
        U(s[SOFT_CS].base), s[SOFT_SS].sel, U(s[SOFT_SS].base), s[SOFT_DS].sel, s[SOFT_ES].sel,
        s[SOFT_FS].sel, s[SOFT_GS].sel, s[SOFT_TR].sel);
    add(&t, "gdt %llx/%x idt %llx/%x\n", U(c->gdt.base), c->gdt.limit, U(c->idt.base), c->idt.limit);
    add_bytes(c, &t, c->mode == SOFT_64 ? c->rip : (uint32_t)(s[SOFT_CS].base + c->rip));
#undef U
}

void soft_crash(struct soft_cpu *c, const char *why)
{
    if (c->report)
        report(c, why);
    c->exc = (struct soft_exception){0};
    c->leave = SOFT_LEAVE_CRASH;
}
