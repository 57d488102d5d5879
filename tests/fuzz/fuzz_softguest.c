// SPDX-License-Identifier: Apache-2.0
/* A guest of any bytes on the software CPU: real mode, protected mode, long mode at CPL 0 or 3. It may do
 * what it likes to its vCPU, its page tables and the chips; this process must go on. Input: a byte that
 * chooses the mode, 16 that seed the registers, then code. Every exception and interrupt goes on somewhere in
 * the code. */
#include <poll.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"
#include "tests/fuzz/fuzz.h"
#include "tests/unit/memory_fixture.h"

#define RAM (2ull << 20)
#define GDT 0x5000u
#define IDT 0x6000u
#define PML4 0x8000u
#define CODE 0x10000u
#define CODE_MAX 0x8000u
#define STACK 0x20000u
#define HEAD 17
#define INSNS 1500

static struct fy_gmem *gmem;
static struct soft_cpu *cpu;
static char report[FY_REPORT_MAX];

static Ferry__CpuidEntry leaves[] = {
    {.function = 1, .ecx = ~0u, .edx = ~0u},
    {.function = 7, .ebx = ~0u},
    {.function = 0x80000001u, .ecx = ~0u, .edx = ~0u},
    {.function = 0x80000008u, .eax = 0x3030},
};
static Ferry__CpuidEntry *leaf_list[] = {&leaves[0], &leaves[1], &leaves[2], &leaves[3]};
static Ferry__CpuPolicy policy = {.n_cpuid = 4, .cpuid = leaf_list};

static void put(uint64_t gpa, uint64_t v)
{
    memcpy(fy_gmem_at(gmem, gpa, 8), &v, 8);
}

/* A guest that halts with no timer running waits for the outside world, which here is this: nothing tells
 * when it begins to wait, so it is looked at. */
static void *wake(void *arg)
{
    for (;;) {
        poll(NULL, 0, 1);
        if (__atomic_load_n(&cpu->waiting, __ATOMIC_SEQ_CST))
            soft_request(cpu, SOFT_REQ_KICK);
    }
    return arg;
}

static void make(void)
{
    struct fy_err e;
    pthread_t t;
    for (unsigned i = 0; i < 4; i++)
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
    policy.base.descriptor = &ferry__cpu_policy__descriptor;
    gmem = fx_memory(RAM, &e);
    struct fy_engine_config config = {
        .gmem = gmem, .bus = fy_bus_new(&e), .vcpus = 1, .policy = &policy, .icount_ns = 1};
    struct soft_vm *vm = soft_vm_new(&config, &e);
    MUST(vm);
    cpu = vm->cpus[0];
    cpu->report = report;
    MUST(pthread_create(&t, NULL, wake, NULL) == 0);
    pthread_detach(t);
}

static void segment(enum soft_sreg n, unsigned sel, unsigned type, unsigned dpl, bool l, bool db)
{
    cpu->seg[n] = (struct soft_segment){.sel = (uint16_t)(sel | dpl),
                                        .type = (uint8_t)type,
                                        .limit = ~0u,
                                        .dpl = (uint8_t)dpl,
                                        .present = true,
                                        .s = true,
                                        .g = true,
                                        .l = l,
                                        .db = db};
}

/* GDT: null, code and data of CPL 0, of CPL 3, a TSS. IDT: gate v goes to the code's byte 4 * v. */
static void tables(bool wide)
{
    put(GDT + 8, wide ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull);
    put(GDT + 16, 0x00cf93000000ffffull);
    put(GDT + 24, wide ? 0x00affb000000ffffull : 0x00cffb000000ffffull);
    put(GDT + 32, 0x00cff3000000ffffull);
    for (unsigned v = 0; v < 256; v++) {
        uint64_t to = CODE + 4 * v;
        uint64_t gate = (to & 0xffff) | 8ull << 16 | 0xee00ull << 32 | (to >> 16) << 48;
        put(IDT + (wide ? 16 : 8) * v, gate);
    }
    put(PML4, (PML4 + 0x1000) | 7);
    put(PML4 + 0x1000, (PML4 + 0x2000) | 7);
    put(PML4 + 0x2000, 0x87);
    put(PML4 + 0x2008, 0x200087);
}

static void enter(unsigned mode)
{
    bool wide = mode & 2;
    unsigned dpl = mode & 4 ? 3 : 0;
    if (!(mode & 3)) { /* real mode, CS 1000 */
        cpu->seg[SOFT_CS].sel = CODE >> 4;
        cpu->seg[SOFT_CS].base = CODE;
        cpu->rip = 0;
        return;
    }
    tables(wide);
    cpu->cr0 = SOFT_CR0_PE | SOFT_CR0_ET | SOFT_CR0_NE | (wide ? SOFT_CR0_PG | SOFT_CR0_WP : 0);
    cpu->cr4 = SOFT_CR4_OSFXSR | SOFT_CR4_OSXMMEXCPT | SOFT_CR4_OSXSAVE | SOFT_CR4_FSGSBASE | SOFT_CR4_PAE;
    cpu->efer = wide ? SOFT_EFER_LMA | SOFT_EFER_LME | SOFT_EFER_NXE | SOFT_EFER_SCE : 0;
    cpu->xcr0 = 7;
    cpu->cr3 = PML4;
    cpu->cpl = (uint8_t)dpl;
    cpu->gdt = (struct soft_table){GDT, 0x2f};
    cpu->idt = (struct soft_table){IDT, 0xfff};
    segment(SOFT_CS, dpl ? 24 : 8, 11, dpl, wide, !wide);
    for (enum soft_sreg s = SOFT_ES; s <= SOFT_GS; s++)
        if (s != SOFT_CS)
            segment(s, dpl ? 32 : 16, 3, dpl, false, true);
    cpu->rip = CODE;
}

static void start(const uint8_t *data, size_t size)
{
    memset(fy_gmem_at(gmem, 0, RAM), 0, RAM);
    soft_cpu_power_on(cpu);
    soft_chips_reset(cpu->vm->chips);
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = STACK + (uint64_t)data[1 + i] * 0x301;
    cpu->gpr[SOFT_RSP] = STACK;
    memcpy(fy_gmem_at(gmem, CODE, CODE_MAX), data + HEAD, size - HEAD);
    enter(data[0]);
    cpu->leave = SOFT_LEAVE_NONE;
    cpu->exc = (struct soft_exception){0};
    cpu->retry = cpu->injected = cpu->triple_fault = false;
    cpu->shadow = 0;
    cpu->run_state = 0;
    soft_code_drop_all(cpu);
    soft_tlb_flush(cpu);
    soft_mode_changed(cpu);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size <= HEAD || size > HEAD + CODE_MAX)
        return 0;
    if (!cpu)
        make();
    start(data, size);
    cpu->vm->stop_at = cpu->insns + INSNS;
    soft_loop(cpu); /* stopped at the count, halted for good, or crashed */
    MUST(cpu->insns <= cpu->vm->stop_at);
    __atomic_fetch_and(&cpu->requests, ~SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
    MUST(cpu->gpr[SOFT_GPR_ZERO] == 0);
    return 0;
}
