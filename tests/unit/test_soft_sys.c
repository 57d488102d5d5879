// SPDX-License-Identifier: Apache-2.0
/* The software CPU's system part: events, far transfers, tasks, control registers and MSRs, by hand-made
 * machines that run a few instructions. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/state.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"
#include "tests/unit/memory_fixture.h"

#define RAM (16ull << 20)
#define GDT 0x8000u
#define IDT 0x9000u
#define TSS 0xa000u
#define TSS2 0xb000u
#define CODE 0x200000u
#define HANDLERS 0x300000u /* of vector v at + 16 * v */
#define RSP0 0x500000u
#define IST1 0x600000u
#define STACK 0x400000u
#define NOWHERE 0x40000000u

enum {
    KCODE = 0x10,
    KDATA = 0x18,
    UCODE32 = 0x20,
    UDATA = 0x28,
    UCODE = 0x30,
    TR = 0x40,
    GATE = 0x50,
    K32 = 0x60
};

struct fix {
    struct fy_gmem *gmem;
    struct fy_bus *bus;
    struct soft_vm *vm;
    struct soft_cpu *c;
    char report[FY_REPORT_MAX];
};

static Ferry__CpuidEntry leaves[] = {
    {.function = 0, .eax = 0xd, .ebx = 0x756e6547, .ecx = 0x6c65746e, .edx = 0x49656e69},
    {.function = 1, .eax = 0x6f0, .ecx = ~0u, .edx = ~0u},
    {.function = 7, .ebx = ~0u},
    {.function = 0xd, .indexed = true, .eax = 7, .ebx = 832, .ecx = 832},
    {.function = 0x80000000u, .eax = 0x80000008u},
    {.function = 0x80000001u, .ecx = ~0u, .edx = ~0u},
    {.function = 0x80000008u, .eax = 0x3028},
};
#define LEAVES (sizeof leaves / sizeof *leaves)
static Ferry__CpuidEntry *leaf_list[LEAVES];
static Ferry__CpuPolicy policy = {.n_cpuid = LEAVES, .cpuid = leaf_list, .tsc_khz = 2000000};

static int setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);
    struct fy_err e;
    for (unsigned i = 0; i < LEAVES; i++) {
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
        leaf_list[i] = &leaves[i];
    }
    policy.base.descriptor = &ferry__cpu_policy__descriptor;
    f->gmem = fx_memory(RAM, &e);
    f->bus = fy_bus_new(&e);
    struct fy_engine_config config = {.gmem = f->gmem, .bus = f->bus, .vcpus = 1, .policy = &policy};
    f->vm = soft_vm_new(&config, &e);
    assert_non_null(f->vm);
    f->c = f->vm->cpus[0];
    f->c->report = f->report;
    f->c->run_state = 0;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    soft_vm_free(f->vm);
    fy_bus_free(f->bus);
    fy_gmem_free(f->gmem);
    free(f);
    return 0;
}

static uint8_t *ram(struct fix *f, uint64_t gpa)
{
    return fy_gmem_at(f->gmem, gpa, 1);
}
static void put(struct fix *f, uint64_t gpa, uint64_t v, unsigned n)
{
    memcpy(ram(f, gpa), &v, n);
}
static uint64_t get(struct fix *f, uint64_t gpa, unsigned n)
{
    uint64_t v = 0;
    memcpy(&v, ram(f, gpa), n);
    return v;
}
#define CODE_AT(f, at, ...)                                                                                  \
    do {                                                                                                     \
        const uint8_t bytes[] = {__VA_ARGS__};                                                               \
        fy_gmem_write((f)->gmem, at, bytes, sizeof bytes, NULL);                                             \
    } while (0)

/* Run n instructions. */
static enum fy_vcpu_end run(struct fix *f, unsigned n)
{
    f->c->run_limit = f->c->insns + n;
    return soft_loop(f->c);
}

static uint64_t segment(uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    return (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
           (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 52 | (uint64_t)(base >> 24) << 56;
}
static void gate64(struct fix *f, unsigned v, unsigned access, unsigned ist)
{
    uint64_t at = HANDLERS + 16 * v;
    put(f, IDT + 16 * v,
        (at & 0xffff) | KCODE << 16 | (uint64_t)ist << 32 | (uint64_t)access << 40 | at >> 16 << 48, 8);
    put(f, IDT + 16 * v + 8, 0, 8);
}
static void gate32(struct fix *f, unsigned v, unsigned access)
{
    uint64_t at = HANDLERS + 16 * v;
    put(f, IDT + 8 * v, (at & 0xffff) | K32 << 16 | (uint64_t)access << 40 | at >> 16 << 48, 8);
}

static void tables(struct fix *f)
{
    put(f, GDT + KCODE, segment(0, 0xfffff, 0x9b, 0xa), 8);
    put(f, GDT + KDATA, segment(0, 0xfffff, 0x93, 0xc), 8);
    put(f, GDT + UCODE32, segment(0, 0xfffff, 0xfb, 0xc), 8);
    put(f, GDT + UDATA, segment(0, 0xfffff, 0xf3, 0xc), 8);
    put(f, GDT + UCODE, segment(0, 0xfffff, 0xfb, 0xa), 8);
    put(f, GDT + K32, segment(0, 0xfffff, 0x9b, 0xc), 8);
    put(f, GDT + TR, segment(TSS, 0x67, 0x89, 0), 8);
    put(f, GDT + TR + 8, 0, 8);
    put(f, TSS + 4, RSP0, 8);
    put(f, TSS + 36, IST1, 8);
    f->c->gdt = (struct soft_table){GDT, 0xff};
    f->c->idt = (struct soft_table){IDT, 0xfff};
    /* 16 MiB, and one more page directory for what is not there */
    put(f, 0x1000, 0x2000 | 7, 8);
    put(f, 0x2000, 0x3000 | 7, 8);
    for (unsigned i = 0; i < 8; i++)
        put(f, 0x3000 + 8 * i, (uint64_t)i << 21 | 0x87, 8);
}

static void load(struct soft_cpu *c, unsigned seg, uint16_t sel)
{
    c->exc.pending = false;
    assert_true(soft_load_sreg(c, seg, sel));
}

/* 64-bit code at CODE, at `cpl`. */
static void long_mode(struct fix *f, unsigned cpl)
{
    struct soft_cpu *c = f->c;
    tables(f);
    c->cr0 = SOFT_CR0_PE | SOFT_CR0_PG | SOFT_CR0_WP | SOFT_CR0_ET;
    c->cr3 = 0x1000;
    c->cr4 = SOFT_CR4_PAE;
    c->efer = SOFT_EFER_LME | SOFT_EFER_LMA | SOFT_EFER_SCE;
    c->seg[SOFT_CS] = sys_unpack(segment(0, 0xfffff, cpl ? 0xfb : 0x9b, 0xa), cpl ? UCODE | 3 : KCODE);
    c->cpl = (uint8_t)cpl;
    c->seg[SOFT_SS] = sys_unpack(segment(0, 0xfffff, cpl ? 0xf3 : 0x93, 0xc), cpl ? UDATA | 3 : KDATA);
    c->seg[SOFT_TR] =
        (struct soft_segment){.base = TSS, .limit = 0x67, .sel = TR, .type = 11, .present = true};
    c->gpr[SOFT_RSP] = STACK + 4;
    c->rip = CODE;
    soft_tlb_flush(c);
    soft_mode_changed(c);
}

static void protected_mode(struct fix *f)
{
    struct soft_cpu *c = f->c;
    tables(f);
    c->cr0 = SOFT_CR0_PE | SOFT_CR0_ET;
    c->seg[SOFT_CS] = sys_unpack(segment(0, 0xfffff, 0x9b, 0xc), K32);
    for (unsigned i = 0; i < SOFT_LDTR; i++)
        if (i != SOFT_CS)
            load(c, i, KDATA);
    put(f, TSS + 4, RSP0, 4);
    put(f, TSS + 8, KDATA, 4);
    c->seg[SOFT_TR] =
        (struct soft_segment){.base = TSS, .limit = 0x67, .sel = TR, .type = 11, .present = true};
    put(f, GDT + TR, segment(TSS, 0x67, 0x8b, 0), 8);
    c->gpr[SOFT_RSP] = STACK;
    c->rip = CODE;
    soft_tlb_flush(c);
    soft_mode_changed(c);
}

#define AT(v) (HANDLERS + 16u * (v))

/* -- long mode -- */

static void deliver_same_level(void **state)
{
    struct fix *f = *state;
    long_mode(f, 0);
    gate64(f, 6, 0x8e, 0);
    CODE_AT(f, CODE, 0xfb, 0x0f, 0x0b); /* sti; ud2 */
    assert_int_equal(run(f, 2), FY_VCPU_KICKED);
    assert_int_equal(f->c->rip, AT(6));
    assert_int_equal(f->c->gpr[SOFT_RSP], STACK - 40);
    assert_int_equal(get(f, STACK - 40, 8), CODE + 1);
    assert_int_equal(get(f, STACK - 32, 8), KCODE);
    assert_int_equal(get(f, STACK - 24, 8), 0x10202);
    assert_int_equal(get(f, STACK - 16, 8), STACK + 4);
    assert_int_equal(get(f, STACK - 8, 8), KDATA);
    assert_int_equal(soft_rflags(f->c), 2);
}

static void deliver_inner_and_back(void **state)
{
    struct fix *f = *state;
    long_mode(f, 3);
    gate64(f, 6, 0x8f, 0);
    f->c->eflags |= SOFT_EFL_IF;
    CODE_AT(f, CODE, 0x0f, 0x0b, 0x90, 0xf4);                    /* ud2; nop; hlt */
    CODE_AT(f, AT(6), 0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xcf); /* add qword [rsp], 2; iretq */
    assert_int_equal(run(f, 1), FY_VCPU_KICKED);
    assert_int_equal(f->c->rip, AT(6));
    assert_int_equal(f->c->cpl, 0);
    assert_int_equal(f->c->gpr[SOFT_RSP], RSP0 - 40);
    assert_int_equal(f->c->seg[SOFT_SS].sel, 0);
    assert_true(f->c->seg[SOFT_SS].unusable);
    assert_int_equal(get(f, RSP0 - 8, 8), UDATA | 3);
    assert_true(f->c->eflags & SOFT_EFL_IF); /* a trap gate */
    run(f, 2);
    assert_int_equal(f->c->rip, CODE + 2);
    assert_int_equal(f->c->cpl, 3);
    assert_int_equal(f->c->gpr[SOFT_RSP], STACK + 4);
    assert_int_equal(f->c->seg[SOFT_CS].sel, UCODE | 3);
    /* HLT: #GP(0), through IST1 */
    gate64(f, 13, 0x8e, 1);
    run(f, 2);
    assert_int_equal(f->c->rip, AT(13));
    assert_int_equal(f->c->gpr[SOFT_RSP], IST1 - 48);
    assert_int_equal(get(f, IST1 - 48, 8), 0);
    assert_int_equal(get(f, IST1 - 40, 8), CODE + 3);
}

static void page_fault(void **state)
{
    struct fix *f = *state;
    long_mode(f, 3);
    gate64(f, 14, 0x8e, 0);
    f->c->gpr[SOFT_RBX] = NOWHERE + 0x123;
    CODE_AT(f, CODE, 0x89, 0x03); /* mov [rbx], eax */
    run(f, 1);
    assert_int_equal(f->c->rip, AT(14));
    assert_int_equal(f->c->cr2, NOWHERE + 0x123);
    assert_int_equal(get(f, RSP0 - 48, 8), 6);
    assert_int_equal(f->c->gpr[SOFT_RSP], RSP0 - 48);
}

static void software_interrupts(void **state)
{
    struct fix *f = *state;
    long_mode(f, 3);
    gate64(f, 0x80, 0xee, 0);
    gate64(f, 0x81, 0x8e, 0);
    gate64(f, 13, 0x8e, 0);
    gate64(f, 11, 0x8e, 0);
    gate64(f, 3, 0xee, 0);
    CODE_AT(f, CODE, 0xcd, 0x80);
    run(f, 1);
    assert_int_equal(f->c->rip, AT(0x80));
    assert_int_equal(get(f, RSP0 - 40, 8), CODE + 2);
    long_mode(f, 3);
    CODE_AT(f, CODE, 0xcd, 0x81);
    run(f, 1);
    assert_int_equal(f->c->rip, AT(13));
    assert_int_equal(get(f, RSP0 - 48, 8), 0x81 * 8 + 2);
    assert_int_equal(get(f, RSP0 - 40, 8), CODE);
    long_mode(f, 3);
    gate64(f, 0x80, 0x6e, 0);
    CODE_AT(f, CODE, 0xcd, 0x80);
    run(f, 1);
    assert_int_equal(f->c->rip, AT(11));
    assert_int_equal(get(f, RSP0 - 48, 8), 0x80 * 8 + 2);
    long_mode(f, 3);
    CODE_AT(f, CODE, 0xcc);
    run(f, 1);
    assert_int_equal(f->c->rip, AT(3));
    assert_int_equal(get(f, RSP0 - 40, 8), CODE + 1);
}

static void double_and_triple(void **state)
{
    struct fix *f = *state;
    long_mode(f, 3);
    gate64(f, 8, 0x8e, 1);
    CODE_AT(f, CODE, 0xf4); /* #GP, whose gate is no gate: #GP again, so #DF */
    run(f, 1);
    assert_int_equal(f->c->rip, AT(8));
    assert_int_equal(get(f, IST1 - 48, 8), 0);
    long_mode(f, 3);
    put(f, IDT + 16 * 8, 0, 8);
    assert_int_equal(run(f, 1), FY_VCPU_CRASHED);
    assert_non_null(strstr(f->report, "triple fault"));
    assert_non_null(strstr(f->report, "bytes at rip: f4"));
}

static void benign_then_contributory(void **state)
{
    struct fix *f = *state;
    long_mode(f, 3);
    gate64(f, 11, 0x8e, 0);
    gate64(f, 6, 0x0e, 0);
    CODE_AT(f, CODE, 0x0f, 0x0b); /* #UD, gate absent: #NP(6 * 8 + IDT + EXT) */
    run(f, 1);
    assert_int_equal(f->c->rip, AT(11));
    assert_int_equal(get(f, RSP0 - 48, 8), 6 * 8 + 3);
}

static void syscalls(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    long_mode(f, 3);
    c->star = (uint64_t)UCODE32 << 48 | (uint64_t)KCODE << 32;
    c->lstar = CODE + 0x1000;
    c->fmask = 0x47700;
    c->eflags |= SOFT_EFL_IF;
    c->kernel_gs_base = 0x1234;
    CODE_AT(f, CODE, 0x0f, 0x05, 0x90);
    CODE_AT(f, CODE + 0x1000, 0x0f, 0x01, 0xf8, 0x48, 0x0f, 0x07); /* swapgs; sysretq */
    run(f, 1);
    assert_int_equal(c->rip, CODE + 0x1000);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->gpr[SOFT_RCX], CODE + 2);
    assert_int_equal(c->gpr[11], 0x202);
    assert_int_equal(soft_rflags(c), 2);
    assert_int_equal(c->seg[SOFT_CS].sel, KCODE);
    assert_int_equal(c->seg[SOFT_SS].sel, KDATA);
    run(f, 2);
    assert_int_equal(c->rip, CODE + 2);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[SOFT_GS].base, 0x1234);
    assert_int_equal(c->seg[SOFT_CS].sel, UCODE | 3);
    assert_int_equal(c->seg[SOFT_SS].sel, UDATA | 3);
    assert_int_equal(soft_rflags(c), 0x202);
}

/* FS and GS change inside a block, and count from the next instruction on. */
static void bases(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    enum { A = 0x700000, B = 0x710000, W = 0x720000 };
    long_mode(f, 0);
    c->cr4 |= SOFT_CR4_FSGSBASE;
    c->seg[SOFT_GS].base = A;
    c->kernel_gs_base = B;
    for (unsigned i = 0; i < 16; i++) {
        put(f, A + 8 * i, 0xa0 + i, 8);
        put(f, B + 8 * i, 0xb0 + i, 8);
        put(f, W + 8 * i, 0xc0 + i, 8);
    }
    c->gpr[SOFT_RCX] = W;
    c->gpr[SOFT_RSI] = 8;
    c->gpr[SOFT_RDI] = 2;
    CODE_AT(f, CODE, 0x65, 0x48, 0x8b, 0x04, 0x25, 0x08, 0, 0, 0, /* mov rax, gs:[8] */
            0x0f, 0x01, 0xf8,                                     /* swapgs */
            0x65, 0x48, 0x8b, 0x1c, 0x25, 0x08, 0, 0, 0,          /* mov rbx, gs:[8] */
            0x65, 0x48, 0x8b, 0x2d, 0x12, 0x00, 0xe0, 0xff, /* mov rbp, gs:[rip + ...], which is gs:[0x2f] */
            0x65, 0x48, 0xff, 0x46, 0x08,                   /* inc qword gs:[rsi+8] */
            0xf3, 0x48, 0x0f, 0xae, 0xd9,                   /* wrgsbase rcx */
            0x65, 0x4c, 0x8b, 0x04, 0xfe,                   /* mov r8, gs:[rsi+rdi*8] */
            0x65, 0x4c, 0x8b, 0x4e, 0x10,                   /* mov r9, gs:[rsi+16] */
            0x65, 0x4c, 0x8d, 0x56, 0x08,                   /* lea r10, gs:[rsi+8] */
            0x64, 0x4c, 0x8b, 0x5c, 0xfe, 0x08,             /* mov r11, fs:[rsi+rdi*8+8] */
            0x65, 0x48, 0x89, 0x3c, 0x25, 0x40, 0, 0, 0,    /* mov gs:[64], rdi */
            0x90);
    load(c, SOFT_FS, 0);
    c->seg[SOFT_FS].base = A;
    run(f, 12);
    assert_false(c->exc.pending);
    assert_int_equal(c->gpr[SOFT_RAX], 0xa1);
    assert_int_equal(c->gpr[SOFT_RBX], 0xb1);
    assert_int_equal(c->gpr[SOFT_RBP], get(f, B + 0x2f, 8));
    assert_int_equal(get(f, B + 16, 8), 0xb3);
    assert_int_equal(c->gpr[8], 0xc3);
    assert_int_equal(c->gpr[9], 0xc3);
    assert_int_equal(c->gpr[10], 16);
    assert_int_equal(c->gpr[11], 0xa4);
    assert_int_equal(get(f, W + 64, 8), 2);
    /* WRMSR, and a selector */
    put(f, GDT + GATE, segment(W, 0xfff, 0x92, 0x4), 8);
    c->gpr[SOFT_RCX] = 0xc0000100u;
    c->gpr[SOFT_RAX] = B;
    c->gpr[SOFT_RDX] = 0;
    c->gpr[SOFT_RBX] = GATE;
    c->rip = CODE + 0x100;
    CODE_AT(f, CODE + 0x100, 0x0f, 0x30, 0x64, 0x48, 0x8b, 0x2c, 0x25, 0x18, 0, 0, 0, /* mov rbp, fs:[24] */
            0x8e, 0xe3, 0x64, 0x48, 0x8b, 0x34, 0x25, 0x18, 0, 0, 0);                 /* mov rsi, fs:[24] */
    run(f, 4);
    assert_int_equal(c->gpr[SOFT_RBP], 0xb3);
    assert_int_equal(c->gpr[SOFT_RSI], 0xc3);
}

static void call_gates(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    long_mode(f, 3);
    put(f, GDT + GATE, AT(1) % 65536 | KCODE << 16 | 0xecull << 40 | (uint64_t)(AT(1) >> 16) << 48, 8);
    put(f, GDT + GATE + 8, 0, 8);
    c->gpr[SOFT_RBX] = CODE + 0x100;
    put(f, CODE + 0x104, GATE | 3, 2);
    CODE_AT(f, CODE, 0xff, 0x1b, 0x90); /* call far [rbx] */
    CODE_AT(f, AT(1), 0x48, 0xcb);      /* retfq */
    run(f, 1);
    assert_int_equal(c->rip, AT(1));
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->gpr[SOFT_RSP], RSP0 - 32);
    assert_int_equal(get(f, RSP0 - 32, 8), CODE + 2);
    assert_int_equal(get(f, RSP0 - 24, 8), UCODE | 3);
    run(f, 1);
    assert_int_equal(c->rip, CODE + 2);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->gpr[SOFT_RSP], STACK + 4);
}

/* An interrupt of a handler: its SS is null, and stays so. */
static void nested(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    long_mode(f, 3);
    gate64(f, 6, 0x8e, 0);
    gate64(f, 3, 0x8e, 0);
    CODE_AT(f, CODE, 0x0f, 0x0b, 0x90);
    CODE_AT(f, AT(6), 0xcc, 0x48, 0x83, 0x04, 0x24, 0x02, 0x48, 0xcf); /* int3; add qword [rsp], 2; iretq */
    CODE_AT(f, AT(3), 0x48, 0xcf);
    run(f, 3);
    assert_int_equal(c->rip, AT(6) + 1);
    assert_int_equal(c->cpl, 0);
    assert_int_equal(c->seg[SOFT_SS].sel, 0);
    assert_int_equal(c->gpr[SOFT_RSP], RSP0 - 40);
    run(f, 2);
    assert_int_equal(c->rip, CODE + 2);
    assert_int_equal(c->cpl, 3);
    /* An NMI is held back until IRET */
    gate64(f, 2, 0x8e, 0);
    CODE_AT(f, AT(2), 0x90, 0x48, 0xcf);
    soft_request(c, SOFT_REQ_NMI);
    run(f, 1);
    assert_int_equal(c->rip, AT(2) + 1);
    assert_true(c->nmi_masked);
    soft_request(c, SOFT_REQ_NMI);
    run(f, 0);
    assert_int_equal(c->rip, AT(2) + 1);
    run(f, 1);
    assert_int_equal(c->rip, AT(2));
    assert_int_equal(get(f, RSP0 - 40, 8), CODE + 2);
}

/* -- without long mode -- */

static void real_mode(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    soft_cpu_power_on(c);
    c->run_state = 0;
    soft_load_sreg(c, SOFT_SS, 0x1000);
    c->seg[SOFT_CS].sel = 0x2000;
    c->seg[SOFT_CS].base = 0x20000;
    c->rip = 0;
    c->gpr[SOFT_RSP] = 0x100;
    c->eflags |= SOFT_EFL_IF;
    c->idt.limit = 0x3ff;
    soft_mode_changed(c);
    put(f, 0x21 * 4, 0x30000010, 4);
    CODE_AT(f, 0x20000, 0xcd, 0x21, 0x90);
    CODE_AT(f, 0x30010, 0xcf);
    run(f, 1);
    assert_int_equal(c->rip, 0x10);
    assert_int_equal(c->seg[SOFT_CS].base, 0x30000);
    assert_int_equal(get(f, 0x100fa, 2), 2);
    assert_int_equal(get(f, 0x100fc, 2), 0x2000);
    assert_int_equal(get(f, 0x100fe, 2), 0x202);
    assert_false(c->eflags & SOFT_EFL_IF);
    run(f, 1);
    assert_int_equal(c->rip, 2);
    assert_int_equal(c->seg[SOFT_CS].sel, 0x2000);
    assert_int_equal(c->gpr[SOFT_RSP], 0x100);
    assert_true(c->eflags & SOFT_EFL_IF);
}

static void virtual_8086(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    protected_mode(f);
    gate32(f, 0x21, 0xee);
    gate32(f, 13, 0x8e);
    const uint32_t frame[] = {0, 0x2000, 0x23202, 0x100, 0x1000, 0x1111, 0x2222, 0x3333, 0x4444};
    for (unsigned i = 0; i < 9; i++)
        put(f, STACK + 4 * i, frame[i], 4);
    CODE_AT(f, CODE, 0xcf);
    CODE_AT(f, 0x20000, 0xcd, 0x21, 0x90);
    CODE_AT(f, AT(0x21), 0xcf);
    run(f, 1);
    assert_true(c->eflags & SOFT_EFL_VM);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[SOFT_GS].sel, 0x4444);
    assert_int_equal(c->seg[SOFT_CS].base, 0x20000);
    run(f, 1);
    assert_int_equal(c->rip, AT(0x21));
    assert_int_equal(c->cpl, 0);
    assert_false(c->eflags & SOFT_EFL_VM);
    assert_int_equal(c->gpr[SOFT_RSP], RSP0 - 36);
    assert_int_equal(get(f, RSP0 - 36, 4), 2);
    assert_int_equal(get(f, RSP0 - 20, 4), 0x1000);
    assert_int_equal(get(f, RSP0 - 4, 4), 0x4444);
    run(f, 1);
    assert_true(c->eflags & SOFT_EFL_VM);
    assert_int_equal(c->rip, 2);
    assert_int_equal(c->seg[SOFT_DS].sel, 0x2222);
    /* IOPL 0: INT is #GP(0) */
    c->eflags &= ~SOFT_EFL_IOPL;
    c->rip = 0;
    run(f, 1);
    assert_int_equal(c->rip, AT(13));
    assert_int_equal(get(f, RSP0 - 40, 4), 0);
}

static void tasks(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    protected_mode(f);
    put(f, GDT + GATE, segment(TSS2, 0x67, 0x89, 0), 8);
    put(f, TSS2 + 32, CODE + 0x1000, 4);
    put(f, TSS2 + 36, 2, 4);
    put(f, TSS2 + 56, IST1, 4);
    for (unsigned i = 0; i < 6; i++)
        put(f, TSS2 + 72 + 4 * i, i == SOFT_CS ? K32 : KDATA, 4);
    put(f, TSS2 + 96, 0, 4);
    c->gpr[SOFT_RAX] = 0x12345678;
    CODE_AT(f, CODE, 0x9a, 0, 0, 0, 0, GATE, 0, 0x90); /* call GATE:0 */
    CODE_AT(f, CODE + 0x1000, 0xcf);
    run(f, 1);
    assert_int_equal(c->rip, CODE + 0x1000);
    assert_int_equal(c->seg[SOFT_TR].sel, GATE);
    assert_int_equal(c->gpr[SOFT_RSP], IST1);
    assert_int_equal(c->gpr[SOFT_RAX], 0);
    assert_true(c->eflags & SOFT_EFL_NT);
    assert_true(c->cr0 & SOFT_CR0_TS);
    assert_int_equal(get(f, TSS2, 2), TR);
    assert_int_equal(get(f, GDT + TR + 5, 1), 0x8b);
    assert_int_equal(get(f, GDT + GATE + 5, 1), 0x8b);
    run(f, 1);
    assert_int_equal(c->rip, CODE + 7);
    assert_int_equal(c->seg[SOFT_TR].sel, TR);
    assert_int_equal(c->gpr[SOFT_RAX], 0x12345678);
    assert_int_equal(c->gpr[SOFT_RSP], STACK);
    assert_false(c->eflags & SOFT_EFL_NT);
    assert_int_equal(get(f, GDT + TR + 5, 1), 0x8b);
    assert_int_equal(get(f, GDT + GATE + 5, 1), 0x89);
}

/* From 32-bit code without paging into 64-bit mode, as a PVH kernel goes. */
static void into_long_mode(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    protected_mode(f);
    CODE_AT(f, CODE, 0xb8, 0x20, 0, 0, 0, 0x0f, 0x22, 0xe0,       /* mov cr4, PAE */
            0xb8, 0, 0x10, 0, 0, 0x0f, 0x22, 0xd8,                /* mov cr3, 0x1000 */
            0xb9, 0x80, 0, 0, 0xc0, 0x0f, 0x32, 0x0d, 0, 1, 0, 0, /* rdmsr EFER; or eax, LME */
            0x0f, 0x30, 0x0f, 0x20, 0xc0, 0x0d, 0, 0, 0, 0x80,    /* wrmsr; mov eax, cr0; or eax, PG */
            0x0f, 0x22, 0xc0, 0x6a, KCODE,                        /* mov cr0, eax; push KCODE */
            0x68, 0, 0x10, 0x20, 0, 0xcb);                        /* push CODE + 0x1000; retf */
    CODE_AT(f, CODE + 0x1000, 0x48, 0x89, 0xe0, 0x90);            /* mov rax, rsp */
    run(f, 11);
    assert_int_equal(c->mode, SOFT_32);
    assert_true(c->efer & SOFT_EFER_LMA);
    run(f, 4);
    assert_int_equal(c->mode, SOFT_64);
    assert_int_equal(c->rip, CODE + 0x1003);
    assert_int_equal(c->gpr[SOFT_RAX], STACK);
    assert_int_equal(c->exc.pending, false);
}

static void control_checks(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    static const uint8_t moves[] = {0xc0, 0xd8, 0xe0}; /* mov cr0/cr3/cr4, rax */
    static const struct {
        unsigned at;
        uint64_t v;
    } bad[] = {{0, 1ull << 32}, {0, 0x80000000}, {0, 0xa0000001}, {0, 0x11},
               {1, 1ull << 52}, {2, 0},          {2, 1ull << 40}, {2, 0x2000}};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        long_mode(f, 0);
        gate64(f, 13, 0x8e, 0);
        CODE_AT(f, CODE, 0x0f, 0x22, moves[bad[i].at]);
        c->gpr[SOFT_RAX] = bad[i].v;
        run(f, 1);
        assert_int_equal(c->rip, AT(13));
        assert_int_equal(c->cr0, 0x80010011);
        assert_int_equal(c->cr3, 0x1000);
        assert_int_equal(c->cr4, SOFT_CR4_PAE);
    }
    /* STAC lifts SMAP: a user page is readable then */
    long_mode(f, 0);
    gate64(f, 14, 0x8e, 0);
    c->cr4 |= SOFT_CR4_SMAP;
    for (unsigned i = 1; i < 5; i++)
        put(f, 0x3000 + 8 * i, (uint64_t)i << 21 | 0x83, 8);
    put(f, 0x3000, 0x83, 8);
    put(f, 0x3000 + 56, 7ull << 21 | 0x87, 8);
    soft_tlb_flush(c);
    soft_mode_changed(c);
    c->gpr[SOFT_RBX] = 7u << 21;
    CODE_AT(f, CODE, 0x0f, 0x01, 0xcb, 0x8b, 0x03, 0x0f, 0x01, 0xca, 0x8b, 0x03);
    run(f, 3);
    assert_int_equal(c->rip, CODE + 8);
    run(f, 1);
    assert_int_equal(c->rip, AT(14));
    assert_int_equal(c->cr2, 7u << 21);
}

static void written_outside(void *arg, uint64_t offset, uint64_t len)
{
    const struct soft_cpu *c = arg;
    (void)offset;
    assert_true(len);
    assert_int_equal(c->in_guest, 0);
}

static void msrs(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    uint64_t v;
    static const struct {
        uint32_t index;
        uint64_t value;
        bool ok;
    } table[] = {
        {0xc0000082u, 0xffffffff81000000ull, true},
        {0xc0000082u, 1ull << 47, false},
        {0xc0000100u, 0x00007fffffffffffull, true},
        {0x277, 0x0007040600070406ull, true},
        {0x277, 0x02, false},
        {0x2ff, 0xc06, true},
        {0x2ff, 0x100, false},
        {0x250, 0x0606060606060606ull, true},
        {0x250, 2, false},
        {0x200, 0xfee00000, true},
        {0x201, 0x800, true},
        {0x401, 1, false},
        {0x401, 0, true},
        {0x174, KCODE, true},
        {0xc0000080u, 0x501, true},
        {0xc0000080u, 0x2000, false},
        {0xc0000103u, 5, true},
        {0xc0000103u, 1ull << 32, false},
        {0x4b564d04u, 0, false},
        {0x12345, 0, false},
        {0x1a0, 1, true},
    };
    long_mode(f, 0);
    for (unsigned i = 0; i < sizeof table / sizeof *table; i++) {
        c->exc.pending = false;
        assert_int_equal(soft_msr_write(c, table[i].index, table[i].value, false), table[i].ok);
        assert_int_equal(c->exc.pending, !table[i].ok);
        if (table[i].ok) {
            assert_true(soft_msr_read(c, table[i].index, &v, false));
            assert_int_equal(v, table[i].value);
        }
    }
    c->exc.pending = false;
    /* kvmclock: an even version, and a reading near the machine's */
    put(f, 0x7000, 3, 4);
    assert_true(soft_msr_write(c, 0x4b564d01u, 0x7001, false));
    assert_int_equal(get(f, 0x7000, 4), 4);
    uint64_t mul = get(f, 0x7018, 4), ticks = soft_tsc(c) - get(f, 0x7008, 8);
    int8_t shift = (int8_t)get(f, 0x701c, 1);
    assert_int_equal(shift, 0);
    assert_int_equal(mul, 0x80000000u);
    assert_int_equal(get(f, 0x701d, 1), 1);
    uint64_t ns = get(f, 0x7010, 8) + (ticks * mul >> 32);
    assert_true(soft_guest_ns(f->vm) - ns < 1000000000ull);
    soft_kvmclock_update(c);
    assert_int_equal(get(f, 0x7000, 4), 6);
    assert_int_equal(get(f, 0x701d, 1), 3);
    /* Log-dirty's lock is for those outside of the guest: its holder waits for those inside. */
    void (*written)(void *, uint64_t, uint64_t) = f->vm->gmem->written;
    void *arg = f->vm->gmem->written_arg;
    f->vm->gmem->written = written_outside;
    f->vm->gmem->written_arg = c;
    soft_enter_guest(c);
    assert_true(soft_msr_write(c, 0x4b564d01u, 0x7001, false));
    assert_true(soft_msr_write(c, 0x4b564d00u, 0x7040, false));
    assert_true(soft_msr_write(c, 0x4b564d03u, 0x7081, false));
    assert_int_equal(c->in_guest, 1);
    soft_leave_guest(c);
    f->vm->gmem->written = written;
    f->vm->gmem->written_arg = arg;
    assert_int_equal(get(f, 0x7000, 4), 8);
}

static void cpuids(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    long_mode(f, 0);
    CODE_AT(f, CODE, 0x0f, 0xa2, 0x0f, 0xa2);
    c->gpr[SOFT_RAX] = 1;
    run(f, 1);
    assert_int_equal(c->gpr[SOFT_RAX], 0x6f0);
    assert_false(c->gpr[SOFT_RCX] >> 27 & 1);
    c->gpr[SOFT_RAX] = 0xd;
    c->gpr[SOFT_RCX] = 0;
    c->xcr0 = 7;
    run(f, 1);
    assert_int_equal(c->gpr[SOFT_RBX], 832);
    /* beyond the last leaf: the last basic one */
    c->rip = CODE;
    c->gpr[SOFT_RAX] = 0x20;
    c->gpr[SOFT_RCX] = 0;
    run(f, 1);
    assert_int_equal(c->gpr[SOFT_RAX], 7);
}

static void flags_and_ports(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    long_mode(f, 3);
    gate64(f, 13, 0x8e, 0);
    /* POPF at CPL 3 leaves IF and IOPL alone */
    put(f, STACK + 4, 0x3ed7, 8);
    CODE_AT(f, CODE, 0x9d, 0xee, 0x90);
    run(f, 1);
    assert_int_equal(soft_rflags(c), 0xcd7);
    /* a port that the bitmap lets through, and one that it does not */
    put(f, TSS + 102, 0x68, 2);
    c->seg[SOFT_TR].limit = 0x68 + 16;
    put(f, TSS + 0x68, 0xff00, 8);
    c->gpr[SOFT_RDX] = 1;
    c->eflags &= ~SOFT_EFL_TF;
    run(f, 1);
    assert_int_equal(c->rip, CODE + 2);
    c->rip = CODE + 1;
    c->gpr[SOFT_RDX] = 9;
    run(f, 1);
    assert_int_equal(c->rip, AT(13));
}

static void descriptor_checks(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->c;
    long_mode(f, 0);
    put(f, GDT + GATE, segment(0x1000, 0xfff, 0x12, 0x4), 8); /* data, not present */
    assert_false(soft_load_sreg(c, SOFT_DS, GATE));
    assert_int_equal(c->exc.vector, SOFT_NP);
    assert_int_equal(c->exc.error, GATE);
    assert_false(soft_load_sreg(c, SOFT_SS, UDATA | 3));
    assert_int_equal(c->exc.vector, SOFT_GP);
    assert_false(soft_load_sreg(c, SOFT_ES, 0x100));
    assert_int_equal(c->exc.error, 0x100);
    load(c, SOFT_SS, 0);
    assert_true(c->seg[SOFT_SS].unusable);
    put(f, GDT + GATE, segment(0x1000, 0xfff, 0x92, 0x4), 8);
    load(c, SOFT_FS, GATE);
    assert_int_equal(c->seg[SOFT_FS].base, 0x1000);
    assert_int_equal(get(f, GDT + GATE + 5, 1), 0x93);
    /* LTR marks it busy; a busy one is refused */
    put(f, GDT + TR, segment(TSS, 0x67, 0x89, 0), 8);
    gate64(f, 13, 0x8e, 0);
    c->gpr[SOFT_RAX] = TR;
    CODE_AT(f, CODE, 0x0f, 0x00, 0xd8, 0x0f, 0x00, 0xd8);
    run(f, 1);
    assert_int_equal(get(f, GDT + TR + 5, 1), 0x8b);
    assert_int_equal(c->rip, CODE + 3);
    run(f, 1);
    assert_int_equal(c->rip, AT(13));
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        T(deliver_same_level),
        T(deliver_inner_and_back),
        T(page_fault),
        T(software_interrupts),
        T(double_and_triple),
        T(benign_then_contributory),
        T(syscalls),
        T(bases),
        T(call_gates),
        T(nested),
        T(real_mode),
        T(virtual_8086),
        T(tasks),
        T(into_long_mode),
        T(control_checks),
        T(msrs),
        T(cpuids),
        T(flags_and_ports),
        T(descriptor_checks),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
