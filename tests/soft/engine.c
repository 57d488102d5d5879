// SPDX-License-Identifier: Apache-2.0
/* The engine's side: one vCPU at CPL 3 in 64-bit mode, driven block by block. Exceptions end a stream; they
 * are not delivered. */
#include <stdlib.h>
#include <string.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"
#include "tests/soft/diff.h"
#include "tests/unit/memory_fixture.h"

/* Parts of the machine that a stream does not use; real ones win where they are linked. */
#define STUB __attribute__((weak))
STUB void soft_cpu_power_on(struct soft_cpu *c)
{
    (void)c;
}
STUB void soft_cpu_init(struct soft_cpu *c)
{
    (void)c;
}
STUB void soft_deliver_exception(struct soft_cpu *c)
{
    c->leave = SOFT_LEAVE_CRASH;
    c->exc.pending = false;
}
STUB void soft_deliver_interrupt(struct soft_cpu *c, unsigned vector)
{
    (void)c, (void)vector;
}
STUB void soft_deliver_nmi(struct soft_cpu *c)
{
    (void)c;
}
STUB void soft_crash(struct soft_cpu *c, const char *why)
{
    (void)why;
    c->leave = SOFT_LEAVE_CRASH;
}
STUB bool soft_load_sreg(struct soft_cpu *c, enum soft_sreg seg, uint16_t sel)
{
    (void)c, (void)seg, (void)sel;
    return false;
}
STUB bool soft_msr_read(struct soft_cpu *c, uint32_t index, uint64_t *value, bool host)
{
    (void)c, (void)index, (void)value, (void)host;
    return false;
}
STUB bool soft_msr_write(struct soft_cpu *c, uint32_t index, uint64_t value, bool host)
{
    (void)c, (void)index, (void)value, (void)host;
    return false;
}

#define RAM (16ull << 20)
#define TABLES 0x10000ull
#define CODE_GPA 0x200000ull
#define EXIT_GPA 0x300000ull
#define DATA_GPA 0x400000ull
#define PTE_P 1u
#define PTE_W 2u
#define PTE_U 4u
#define PTE_AD 0x60u
#define PTE_NX (1ull << 63)

struct diff_engine {
    struct fy_gmem *gmem;
    struct fy_bus *bus;
    struct soft_vm *vm;
    uint64_t next_table;
};

static Ferry__CpuidEntry leaves[] = {
    {.function = 1, .ecx = ~0u, .edx = ~0u},
    {.function = 7, .ebx = ~0u},
    {.function = 0x80000001u, .ecx = ~0u, .edx = ~0u},
    {.function = 0x80000008u, .eax = 0x3030},
};
static Ferry__CpuidEntry *leaf_list[] = {&leaves[0], &leaves[1], &leaves[2], &leaves[3]};
static Ferry__CpuPolicy policy = {.n_cpuid = 4, .cpuid = leaf_list};

static uint64_t *entry_at(struct diff_engine *e, uint64_t gpa)
{
    return (uint64_t *)(void *)fy_gmem_at(e->gmem, gpa, 8);
}

static void map_page(struct diff_engine *e, uint64_t lin, uint64_t gpa, uint64_t bits)
{
    uint64_t table = TABLES;
    for (unsigned shift = 39; shift > 12; shift -= 9) {
        uint64_t *p = entry_at(e, table + 8 * (lin >> shift & 511));
        if (!*p) {
            *p = e->next_table | PTE_P | PTE_W | PTE_U | PTE_AD;
            e->next_table += 0x1000;
        }
        table = *p & ~0xfffull;
    }
    *entry_at(e, table + 8 * (lin >> 12 & 511)) = gpa | PTE_P | PTE_U | PTE_AD | bits;
}

static void segment(struct soft_cpu *c, enum soft_sreg n, unsigned sel, unsigned type)
{
    c->seg[n] = (struct soft_segment){.sel = (uint16_t)sel,
                                      .type = (uint8_t)type,
                                      .limit = ~0u,
                                      .dpl = 3,
                                      .present = sel != 0,
                                      .s = true,
                                      .g = true,
                                      .unusable = sel == 0};
}

static void user_mode(struct soft_cpu *c)
{
    c->cr0 = SOFT_CR0_PE | SOFT_CR0_PG | SOFT_CR0_WP | SOFT_CR0_MP | SOFT_CR0_ET | SOFT_CR0_NE | SOFT_CR0_AM;
    c->cr4 = SOFT_CR4_PAE | SOFT_CR4_PGE | SOFT_CR4_OSFXSR | SOFT_CR4_OSXMMEXCPT | SOFT_CR4_OSXSAVE |
             SOFT_CR4_FSGSBASE;
    c->efer = SOFT_EFER_LMA | SOFT_EFER_LME | SOFT_EFER_NXE | SOFT_EFER_SCE;
    c->xcr0 = 7;
    c->cr3 = TABLES;
    c->cpl = 3;
    c->dr[7] = 0x400;
    memset(c->seg, 0, sizeof c->seg);
    segment(c, SOFT_CS, diff_32 ? 0x23 : 0x33, 11);
    c->seg[SOFT_CS].l = !diff_32;
    c->seg[SOFT_CS].db = diff_32;
    segment(c, SOFT_SS, 0x2b, 3);
    c->seg[SOFT_SS].db = true;
    segment(c, SOFT_DS, diff_32 ? 0x2b : 0, 3);
    segment(c, SOFT_ES, diff_32 ? 0x2b : 0, 3);
    c->seg[SOFT_DS].db = c->seg[SOFT_ES].db = true;
    segment(c, SOFT_FS, 0, 0);
    segment(c, SOFT_GS, 0, 0);
    c->seg[SOFT_GS].base = DIFF_GS;
    c->run_state = 0;
    c->features = diff_features;
    soft_tlb_flush(c);
    soft_mode_changed(c);
}

struct diff_engine *diff_engine_new(void)
{
    struct diff_engine *e = calloc(1, sizeof *e);
    struct fy_err err;
    for (unsigned i = 0; i < 4; i++)
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
    policy.base.descriptor = &ferry__cpu_policy__descriptor;
    e->gmem = fx_memory(RAM, &err);
    e->bus = fy_bus_new(&err);
    struct fy_engine_config config = {.gmem = e->gmem, .bus = e->bus, .vcpus = 1, .policy = &policy};
    e->vm = soft_vm_new(&config, &err);
    if (!e->vm)
        return NULL;
    e->next_table = TABLES + 0x1000;
    for (uint64_t i = 0; i < DIFF_CODE_BYTES; i += 4096)
        map_page(e, DIFF_CODE + i, CODE_GPA + i, 0);
    map_page(e, DIFF_EXIT, EXIT_GPA, 0);
    for (uint64_t i = 0; i < DIFF_DATA_BYTES; i += 4096)
        map_page(e, DIFF_DATA + i, DATA_GPA + i, PTE_W | PTE_NX);
    memcpy(fy_gmem_at(e->gmem, EXIT_GPA, 2), "\x0f\x0b", 2);
    user_mode(e->vm->cpus[0]);
    return e;
}

void diff_engine_free(struct diff_engine *e)
{
    soft_vm_free(e->vm);
    fy_bus_free(e->bus);
    fy_gmem_free(e->gmem);
    free(e);
}

void diff_engine_code(struct diff_engine *e, const uint8_t *code, unsigned bytes)
{
    struct soft_cpu *c = e->vm->cpus[0];
    memcpy(fy_gmem_at(e->gmem, CODE_GPA, bytes), code, bytes);
    soft_code_drop_all(c);
    soft_tlb_flush(c);
}

static void load_fpu(struct soft_cpu *c, const uint8_t *x)
{
    unsigned top;
    memcpy(&c->fpu.fcw, x, 2);
    memcpy(&c->fpu.fsw, x + 2, 2);
    c->fpu.ftw = x[4];
    memcpy(&c->fpu.fop, x + 6, 2);
    memcpy(&c->fpu.fip, x + 8, 8);
    memcpy(&c->fpu.fdp, x + 16, 8);
    c->fpu.fcs = c->fpu.fds = 0;
    memcpy(&c->mxcsr, x + 24, 4);
    top = c->fpu.fsw >> 11 & 7;
    memset(c->fpu.st, 0, sizeof c->fpu.st);
    for (unsigned i = 0; i < 8; i++)
        memcpy(c->fpu.st[(top + i) & 7], x + 32 + 16 * i, 10);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(c->ymm[i].u8, x + 160 + 16 * i, 16);
        memcpy(c->ymm[i].u8 + 16, x + 576 + 16 * i, 16);
    }
}

static void save_fpu(const struct soft_cpu *c, uint8_t *x)
{
    unsigned top = c->fpu.fsw >> 11 & 7;
    memset(x, 0, DIFF_XSAVE);
    memcpy(x, &c->fpu.fcw, 2);
    memcpy(x + 2, &c->fpu.fsw, 2);
    x[4] = c->fpu.ftw;
    memcpy(x + 6, &c->fpu.fop, 2);
    memcpy(x + 8, &c->fpu.fip, 8);
    memcpy(x + 16, &c->fpu.fdp, 8);
    memcpy(x + 24, &c->mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        memcpy(x + 32 + 16 * i, c->fpu.st[(top + i) & 7], 16);
    for (unsigned i = 0; i < 16; i++) {
        memcpy(x + 160 + 16 * i, c->ymm[i].u8, 16);
        memcpy(x + 576 + 16 * i, c->ymm[i].u8 + 16, 16);
    }
}

static void execute(struct soft_cpu *c, struct soft_block *b)
{
    const struct soft_insn *in = b->code;
    c->block = b;
    c->gpr[SOFT_GPR_BLOCK] = c->rip;
    soft_bases_changed(c);
    c->insns += b->count;
    while (in)
        in = in->fn(c, in);
    c->block = &soft_unlinked;
}

void diff_engine_run(struct diff_engine *e, const struct diff_slot *slot, struct diff_state *out,
                     uint8_t mem[DIFF_DATA_BYTES])
{
    struct soft_cpu *c = e->vm->cpus[0];
    uint8_t *data = fy_gmem_at(e->gmem, DATA_GPA, DIFF_DATA_BYTES);
    uint64_t before = c->insns;
    c->limit = c->run_limit = before + 200000; /* the longest REP is far below */
    memcpy(data, slot->mem_in, DIFF_DATA_BYTES);
    memcpy(c->gpr, slot->in.gpr, sizeof slot->in.gpr);
    c->gpr[SOFT_GPR_ZERO] = 0;
    soft_set_rflags(c, slot->in.rflags);
    soft_mode_changed(c);
    load_fpu(c, slot->in.xsave);
    c->rip = slot->in.rip;
    c->exc.pending = false;
    c->leave = SOFT_LEAVE_NONE;
    c->retry = false;
    c->shadow = 0;
    while (!c->exc.pending && c->insns < c->limit) {
        struct soft_block *b;
        if (c->mode_dirty)
            soft_mode_changed(c);
        if (c->requests)
            soft_take_requests(c, true);
        b = c->retry ? soft_single(c, c->rip) : soft_find(c, c->rip);
        if (!b && !c->exc.pending)
            b = soft_single(c, c->rip);
        c->retry = false;
        if (b)
            execute(c, b);
    }
    memcpy(out->gpr, c->gpr, sizeof out->gpr);
    out->rflags = soft_rflags(c);
    out->rip = c->rip;
    out->vector = c->exc.vector;
    out->error = c->exc.has_error ? c->exc.error : 0;
    out->cr2 = c->exc.cr2;
    if (!c->exc.pending)
        out->vector = DIFF_ENDLESS;
    else if (c->rip == (diff_32 ? slot->end : DIFF_EXIT) && c->exc.vector == SOFT_UD) {
        out->vector = DIFF_NO_VECTOR;
        out->rip = DIFF_EXIT;
    }
    out->insns = c->insns - before;
    save_fpu(c, out->xsave);
    memcpy(mem, data, DIFF_DATA_BYTES);
    c->exc.pending = false;
}
