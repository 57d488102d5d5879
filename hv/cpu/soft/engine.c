// SPDX-License-Identifier: Apache-2.0
/* The software machine behind the engine's table. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/engine.h"
#include "hv/cpu/soft/state.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"

static void engine_free(struct fy_engine *en)
{
    soft_vm_free(SOFT_VM(en));
}

static void attach(struct fy_engine *en, unsigned vcpu)
{
    (void)en;
    (void)vcpu;
}

static enum fy_vcpu_end run(struct fy_engine *en, unsigned vcpu, char *report)
{
    struct soft_cpu *c = SOFT_VM(en)->cpus[vcpu];
    c->report = report;
    report[0] = 0;
    enum fy_vcpu_end end = soft_loop(c);
    c->report = NULL;
    return end;
}

static void kick(struct fy_engine *en, unsigned vcpu)
{
    soft_request(SOFT_VM(en)->cpus[vcpu], SOFT_REQ_KICK);
}

static void unkick(struct fy_engine *en, unsigned vcpu)
{
    __atomic_fetch_and(&SOFT_VM(en)->cpus[vcpu]->requests, ~SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
}

/* An access to a device is whole when soft_loop returns. */
static void settle(struct fy_engine *en, unsigned vcpu)
{
    (void)en;
    (void)vcpu;
}

static void flat(struct soft_segment *s, uint16_t sel, uint8_t type, bool long_mode)
{
    *s = (struct soft_segment){.limit = 0xffffffffu,
                               .sel = sel,
                               .type = type,
                               .present = true,
                               .s = true,
                               .g = true,
                               .l = long_mode,
                               .db = !long_mode};
}

static void real_mode(struct soft_cpu *c, const struct fy_cpu_boot *b)
{
    for (unsigned i = 0; i < SOFT_LDTR; i++) {
        uint16_t sel = i == SOFT_CS ? b->real_cs : b->real_ds;
        c->seg[i] = (struct soft_segment){.base = (uint64_t)sel << 4,
                                          .limit = 0xffff,
                                          .sel = sel,
                                          .type = i == SOFT_CS ? 0xb : 0x3,
                                          .present = true,
                                          .s = true};
    }
    c->cr0 = SOFT_CR0_ET;
}

static void apply_boot(struct soft_cpu *c, const struct fy_cpu_boot *b)
{
    flat(&c->seg[SOFT_CS], 0x10, 0xb, b->long_mode);
    for (unsigned i = 0; i < SOFT_LDTR; i++)
        if (i != SOFT_CS)
            flat(&c->seg[i], 0x18, 0x3, false);
    c->seg[SOFT_TR] = (struct soft_segment){.limit = 0x67, .type = 0xb, .present = true};
    c->cr0 = SOFT_CR0_PE | SOFT_CR0_ET;
    c->cr4 = 0;
    c->efer = 0;
    if (b->real)
        real_mode(c, b);
    if (b->long_mode) {
        c->cr0 |= SOFT_CR0_PG;
        c->cr3 = b->cr3;
        c->cr4 = SOFT_CR4_PAE;
        c->efer = SOFT_EFER_LME | SOFT_EFER_LMA;
    }
    if (b->gdt_limit) {
        c->gdt.base = b->gdt_base;
        c->gdt.limit = b->gdt_limit;
    }
    memset(c->gpr, 0, sizeof c->gpr);
    c->gpr[SOFT_RAX] = b->rax;
    c->gpr[SOFT_RSP] = b->rsp;
    c->gpr[SOFT_RBX] = b->rbx;
    c->gpr[SOFT_RSI] = b->rsi;
    c->rip = b->rip;
    c->cpl = 0;
    soft_set_rflags(c, SOFT_EFL_FIXED);
}

static int reset(struct fy_engine *en, unsigned vcpu, const struct fy_cpu_boot *boot, struct fy_err *e)
{
    (void)e;
    struct soft_cpu *c = SOFT_VM(en)->cpus[vcpu];
    soft_cpu_power_on(c);
    soft_lapic_power_on(c);
    __atomic_and_fetch(&c->requests, SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
    c->exc = (struct soft_exception){0};
    c->leave = SOFT_LEAVE_NONE;
    c->shadow = 0;
    c->retry = false;
    c->injected = c->nmi_pending = c->nmi_masked = c->triple_fault = false;
    c->run_state = boot ? 0 : 1;
    if (boot && !boot->at_reset)
        apply_boot(c, boot);
    soft_code_drop_all(c);
    soft_tlb_flush(c);
    soft_mode_changed(c);
    return 0;
}

static int chips_reset(struct fy_engine *en, struct fy_err *e)
{
    (void)e;
    soft_chips_reset(SOFT_VM(en)->chips);
    return 0;
}

static void clock_resumed(struct fy_engine *en)
{
    /* With icount no time has passed, and a run that was stopped goes on like one that was not. */
    for (unsigned i = 0; i < SOFT_VM(en)->vcpus && !SOFT_VM(en)->icount; i++)
        soft_kvmclock_update(SOFT_VM(en)->cpus[i]);
}

/* What this CPU keeps of what travels from KVM too (kvm/msr.c says what stays and why), in the order of
 * loading: the TSC deadline last. */
static const struct {
    uint32_t first, count;
} travelling[] = {
    {0x174, 3},       {0x17a, 2},       {0x1a0, 1},       {0x200, 16},      {0x250, 1},
    {0x258, 2},       {0x268, 8},       {0x277, 1},       {0x2ff, 1},       {0x400, 40},
    {0x4b564d01u, 1}, {0x4b564d03u, 1}, {0xc0000081u, 4}, {0xc0000102u, 2}, {0x6e0, 1},
};

static const uint32_t *msrs(struct fy_engine *en, size_t *count)
{
    struct soft_vm *vm = SOFT_VM(en);
    if (vm->policy->n_msrs) {
        *count = vm->policy->n_msrs;
        return vm->policy->msrs;
    }
    struct soft_cpu *c = vm->cpus[0];
    uint64_t v;
    vm->msr_count = 0;
    for (size_t i = 0; i < FY_ARRAY_LEN(travelling); i++)
        for (uint32_t k = 0; k < travelling[i].count; k++)
            if (soft_msr_read(c, travelling[i].first + k, &v, true) && vm->msr_count < FY_ARRAY_LEN(vm->msrs))
                vm->msrs[vm->msr_count++] = travelling[i].first + k;
    c->exc = (struct soft_exception){0};
    *count = vm->msr_count;
    return vm->msrs;
}

static void irq(struct fy_engine *en, unsigned gsi, bool level)
{
    soft_chips_irq(SOFT_VM(en)->chips, gsi, level);
}

static void msi(struct fy_engine *en, uint64_t address, uint32_t data)
{
    soft_chips_msi(SOFT_VM(en)->chips, address, data);
}

static bool vcpu_dirty(struct fy_engine *en, uint64_t *pages)
{
    for (unsigned i = 0; i < SOFT_VM(en)->vcpus; i++)
        pages[i] = __atomic_load_n(&SOFT_VM(en)->cpus[i]->stat_dirty, __ATOMIC_RELAXED);
    return true;
}

static const struct fy_engine_ops soft_ops = {
    .name = "soft",
    .free = engine_free,
    .vcpu_attach = attach,
    .vcpu_run = run,
    .vcpu_kick = kick,
    .vcpu_unkick = unkick,
    .vcpu_settle = settle,
    .vcpu_reset = reset,
    .vcpu_save = soft_vcpu_save,
    .vcpu_load = soft_vcpu_load,
    .chips_save = soft_chips_save,
    .chips_load = soft_chips_load,
    .chips_reset = chips_reset,
    .clock_save = soft_clock_save,
    .clock_load = soft_clock_load,
    .clock_resumed = clock_resumed,
    .msrs = msrs,
    .irq = irq,
    .msi = msi,
    .dirty = &soft_dirty_ops,
    .vcpu_dirty = vcpu_dirty,
};

struct fy_engine *fy_soft_engine_new(const struct fy_engine_config *config, struct fy_err *e)
{
    struct soft_vm *vm = soft_vm_new(config, e);
    if (!vm)
        return NULL;
    vm->base.ops = &soft_ops;
    vm->base.icount = vm->icount ? &soft_icount_ops : NULL;
    return &vm->base;
}
