// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/softvm.h"

#include <string.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips/internal.h"
#include "hv/cpu/soft/engine.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/state.h"
#include "hv/cpu/soft/system.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/memory_fixture.h"

#define GDT 0x5000u
#define IDT 0x6000u
#define PML4 0x8000u
#define IOAPIC 0xfec00000u
#define MSI 0xfee00000u
#define X2APIC_MSRS 0x800u

static const Ferry__CpuPolicy *whole_policy(void)
{
    static Ferry__CpuidEntry leaves[] = {
        {.function = 1, .ecx = ~0u, .edx = ~0u},      {.function = 7, .ebx = ~0u},
        {.function = 0xd, .indexed = true, .eax = 7}, {.function = 0x80000001u, .ecx = ~0u, .edx = ~0u},
        {.function = 0x80000008u, .eax = 0x3030},
    };
    static Ferry__CpuidEntry *list[sizeof leaves / sizeof *leaves];
    static Ferry__CpuPolicy policy;
    if (policy.n_cpuid)
        return &policy;
    ferry__cpu_policy__init(&policy);
    for (unsigned i = 0; i < sizeof leaves / sizeof *leaves; i++) {
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
        list[i] = &leaves[i];
    }
    policy.cpuid = list;
    policy.n_cpuid = sizeof leaves / sizeof *leaves;
    policy.tsc_khz = 2000000;
    return &policy;
}

struct soft_vm *softvm_make(unsigned vcpus, bool icount)
{
    struct fy_err e;
    struct fy_engine_config config = {.gmem = fx_memory(SOFTVM_RAM, &e),
                                      .bus = fy_bus_new(&e),
                                      .vcpus = vcpus,
                                      .policy = whole_policy(),
                                      .icount_ns = icount};
    MUST(config.gmem && config.bus);
    struct fy_engine *en = fy_soft_engine_new(&config, &e);
    MUST(en);
    Ferry__CpuPolicy *policy = (Ferry__CpuPolicy *)config.policy;
    size_t count;
    const uint32_t *msrs = en->ops->msrs(en, &count);
    MUST(count);
    if (!policy->n_msrs) {
        policy->msrs = malloc(count * sizeof *msrs);
        MUST(policy->msrs);
        memcpy(policy->msrs, msrs, count * sizeof *msrs);
        policy->n_msrs = count;
    }
    return SOFT_VM(en);
}

void softvm_reset(struct soft_vm *vm)
{
    static const uint64_t tsc[FY_VCPUS_LIMIT];
    Ferry__Clock clock = FERRY__CLOCK__INIT;
    struct fy_engine *en = &vm->base;
    uint64_t elapsed;
    char warning[FY_ERR_TEXT];
    struct fy_err e;
    memset(fy_gmem_at(vm->gmem, 0, SOFTVM_RAM), 0, SOFTVM_RAM);
    clock.realtime_ns = UINT64_MAX; /* no time passes */
    MUST(en->ops->clock_load(en, &clock, tsc, &elapsed, warning, &e) == 0);
    MUST(en->ops->chips_reset(en, &e) == 0);
    for (unsigned i = 0; i < vm->vcpus; i++) {
        struct soft_cpu *c = vm->cpus[i];
        const struct fy_cpu_boot boot = {.at_reset = true};
        MUST(en->ops->vcpu_reset(en, i, i ? NULL : &boot, &e) == 0);
        if (c->foreign_msrs)
            memset(c->foreign_msrs, 0, vm->policy->n_msrs * 8);
        __atomic_store_n(&c->requests, 0, __ATOMIC_SEQ_CST);
    }
}

static void put(struct soft_vm *vm, uint64_t gpa, uint64_t v)
{
    memcpy(fy_gmem_at(vm->gmem, gpa, 8), &v, 8);
}

/* GDT: null, code and data of CPL 0, of CPL 3. IDT: gate v goes to the code's byte 4 * v. Page tables: RAM at
 * its address, wide for long mode. */
static void tables(struct soft_vm *vm, bool wide)
{
    put(vm, GDT + 8, wide ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull);
    put(vm, GDT + 16, 0x00cf93000000ffffull);
    put(vm, GDT + 24, wide ? 0x00affb000000ffffull : 0x00cffb000000ffffull);
    put(vm, GDT + 32, 0x00cff3000000ffffull);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t to = SOFTVM_CODE + 4 * v;
        uint64_t gate = (to & 0xffff) | 8ull << 16 | 0xee00ull << 32 | (to >> 16) << 48;
        put(vm, IDT + (wide ? 16 : 8) * v, gate);
    }
    put(vm, PML4, (PML4 + 0x1000) | 7);
    put(vm, PML4 + 0x1000, (PML4 + 0x2000) | 7);
    put(vm, PML4 + 0x2000, 0x87);
    put(vm, PML4 + 0x2008, 0x200087);
}

static void segment(struct soft_cpu *c, enum soft_sreg n, unsigned sel, unsigned type, unsigned dpl, bool l)
{
    c->seg[n] = (struct soft_segment){.sel = (uint16_t)(sel | dpl),
                                      .type = (uint8_t)type,
                                      .limit = ~0u,
                                      .dpl = (uint8_t)dpl,
                                      .present = true,
                                      .s = true,
                                      .g = true,
                                      .l = l,
                                      .db = !l};
}

void softvm_enter(struct soft_vm *vm, unsigned mode)
{
    struct soft_cpu *c = vm->cpus[0];
    bool wide = mode & 2;
    unsigned dpl = mode & 4 ? 3 : 0;
    if (!(mode & 3)) {
        c->seg[SOFT_CS].sel = SOFTVM_CODE >> 4;
        c->seg[SOFT_CS].base = SOFTVM_CODE;
        c->rip = 0;
    } else {
        tables(vm, wide);
        c->cr0 = SOFT_CR0_PE | SOFT_CR0_ET | SOFT_CR0_NE | (wide ? SOFT_CR0_PG | SOFT_CR0_WP : 0);
        c->cr4 = SOFT_CR4_OSFXSR | SOFT_CR4_OSXMMEXCPT | SOFT_CR4_OSXSAVE | SOFT_CR4_FSGSBASE | SOFT_CR4_PAE;
        c->efer = wide ? SOFT_EFER_LMA | SOFT_EFER_LME | SOFT_EFER_NXE | SOFT_EFER_SCE : 0;
        c->xcr0 = 7;
        c->cr3 = PML4;
        c->cpl = (uint8_t)dpl;
        c->gdt = (struct soft_table){GDT, 0x2f};
        c->idt = (struct soft_table){IDT, 0xfff};
        segment(c, SOFT_CS, dpl ? 24 : 8, 11, dpl, wide);
        for (enum soft_sreg s = SOFT_ES; s <= SOFT_GS; s++)
            if (s != SOFT_CS)
                segment(c, s, dpl ? 32 : 16, 3, dpl, false);
        c->rip = SOFTVM_CODE;
    }
    soft_tlb_flush(c);
    soft_mode_changed(c);
}

/* --- operations --- */

static void chip_mmio(struct soft_cpu *c, uint64_t gpa, unsigned size, bool write, uint64_t value)
{
    soft_chips_mmio(c, gpa, size, write, &value);
}

static void ioapic(struct soft_cpu *c, uint32_t op, uint32_t value)
{
    chip_mmio(c, IOAPIC, 4, true, op >> 8 & 63);
    chip_mmio(c, IOAPIC + 0x10, 1u << (op >> 4 & 3), op & 0x10000, value);
}

static void lapic(struct soft_cpu *c, uint32_t op, uint32_t value)
{
    uint64_t at = (c->apic_base & 0xffffff000ull) + (op >> 8 & 63) * 16;
    uint64_t v = value;
    if (c->apic_base & APIC_X2)
        soft_lapic_msr(c, X2APIC_MSRS + (op >> 8 & 63), op & 0x10000, &v);
    else
        chip_mmio(c, at + (op & 0x80 ? op >> 17 & 15 : 0), 4, op & 0x10000, v);
}

static void processor(struct soft_cpu *c, uint32_t op, uint32_t value)
{
    uint64_t v = (uint64_t)value << (op >> 16 & 31);
    switch (op >> 8 & 7) {
    case 0:
        soft_lapic_set_tpr(c, value & 15);
        break;
    case 1:
        if (op & 0x10000)
            v = (c->apic_base & ~0xc00ull) | (uint64_t)(value & 3) << 10;
        soft_lapic_msr(c, 0x1b, true, &v);
        break;
    case 2:
        v += soft_tsc(c);
        soft_lapic_msr(c, 0x6e0, true, &v);
        break;
    case 3:
        soft_tsc_write(c, v);
        break;
    default:
        if (soft_irq_ready(c))
            MUST(soft_irq_ack(c) < 256);
    }
}

uint64_t softvm_chip_op(struct soft_vm *vm, uint32_t op, uint32_t value)
{
    static const uint16_t ports[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1,
                                     0x40, 0x41, 0x42, 0x43, 0x43,  0x61};
    struct soft_cpu *c = vm->cpus[(op >> 3 & 1) % vm->vcpus];
    switch (op & 7) {
    case 0:
        return (uint64_t)(value & 0xffff) << (op >> 8) % 32;
    case 1:
    case 2:
        soft_chips_port(c, ports[(op >> 8 & 255) % 12], 1u << (op >> 4 & 1), op & 1, &value);
        break;
    case 3:
        ioapic(c, op, value);
        break;
    case 4:
    case 5:
        lapic(c, op, value);
        break;
    case 6:
        if (op & 0x10)
            soft_chips_msi(vm->chips, MSI | op >> 12, value & 0x7ff);
        else
            soft_chips_irq(vm->chips, (op >> 8) % 24, value & 1);
        break;
    default:
        processor(c, op, value);
    }
    return 0;
}

void softvm_fire(struct soft_vm *vm)
{
    struct soft_chips *ch = vm->chips;
    pthread_mutex_lock(&ch->lock);
    uint64_t now = soft_clock_ns(vm);
    if (now >= chips_due(ch))
        MUST(chips_fire(ch, now) > now);
    pthread_mutex_unlock(&ch->lock);
}
