// SPDX-License-Identifier: Apache-2.0
/* A software machine of CPUS vCPUs for the tests of the CPU's core: memory, a device on the bus, no code. */
#ifndef FERRY_TESTS_SOFT_CORE_FIXTURE_H
#define FERRY_TESTS_SOFT_CORE_FIXTURE_H

#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"
#include "tests/unit/memory_fixture.h"

#define RAM (16ull << 20)
#define CPUS 4u
#define CODE 0x200000ull
#define DATA 0x300000ull
#define BAR 0xd0000000ull /* a device, by the bus */

struct access_log {
    unsigned count;
    struct {
        uint64_t offset, value;
        unsigned size;
        bool write;
    } at[32];
};
struct fix {
    struct fy_gmem *gmem;
    struct fy_bus *bus;
    struct soft_vm *vm;
    struct access_log log;
};

static inline uint64_t bar_read(void *dev, uint64_t offset, unsigned size)
{
    struct access_log *l = dev;
    if (l->count < 32) {
        l->at[l->count].offset = offset;
        l->at[l->count].size = size;
        l->at[l->count++].write = false;
    }
    return 0x1122334455667788ull;
}
static inline void bar_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct access_log *l = dev;
    if (l->count < 32) {
        l->at[l->count].offset = offset;
        l->at[l->count].size = size;
        l->at[l->count].value = value;
        l->at[l->count++].write = true;
    }
}
static const struct fy_io_ops bar_ops = {bar_read, bar_write};

static Ferry__CpuidEntry leaves[] = {
    {.function = 1, .ecx = ~0u, .edx = ~0u},
    {.function = 7, .ebx = ~0u},
    {.function = 0x80000001u, .ecx = ~0u, .edx = ~0u},
    {.function = 0x80000008u, .eax = 0x3028},
};
static Ferry__CpuidEntry *leaf_list[] = {&leaves[0], &leaves[1], &leaves[2], &leaves[3]};
static Ferry__CpuPolicy policy = {.n_cpuid = 4, .cpuid = leaf_list};

static inline int setup(void **state)
{
    struct fix *f = calloc(1, sizeof *f);
    struct fy_err e;
    for (unsigned i = 0; i < 4; i++)
        leaves[i].base.descriptor = &ferry__cpuid_entry__descriptor;
    policy.base.descriptor = &ferry__cpu_policy__descriptor;
    f->gmem = fx_memory(RAM, &e);
    f->bus = fy_bus_new(&e);
    assert_int_equal(fy_bus_add(f->bus, FY_SPACE_MMIO, BAR, 0x2000, &bar_ops, &f->log, &e), 0);
    struct fy_engine_config config = {.gmem = f->gmem, .bus = f->bus, .vcpus = CPUS, .policy = &policy};
    f->vm = soft_vm_new(&config, &e);
    assert_non_null(f->vm);
    *state = f;
    return 0;
}

static inline int teardown(void **state)
{
    struct fix *f = *state;
    soft_vm_free(f->vm);
    fy_bus_free(f->bus);
    fy_gmem_free(f->gmem);
    free(f);
    return 0;
}

static uint64_t seed = 88172645463325252ull;
static inline uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static inline uint8_t *ram(struct fix *f, uint64_t gpa)
{
    return fy_gmem_at(f->gmem, gpa, 1);
}
static inline void put64(struct fix *f, uint64_t gpa, uint64_t v)
{
    memcpy(ram(f, gpa), &v, 8);
}
static inline uint64_t get64(struct fix *f, uint64_t gpa)
{
    uint64_t v;
    memcpy(&v, ram(f, gpa), 8);
    return v;
}

/* Ring 0, 64-bit, identity-mapped with 2 MiB pages by tables at 0x1000; the first gigabyte is there, and
 * BAR. */
static inline void long_mode(struct fix *f, struct soft_cpu *c)
{
    put64(f, 0x1000, 0x2000 | 7);
    put64(f, 0x2000, 0x3000 | 7);
    put64(f, 0x2000 + 8 * (BAR >> 30), 0x4000 | 7);
    for (unsigned i = 0; i < 512; i++) {
        put64(f, 0x3000 + i * 8, (uint64_t)i << 21 | 0x87);
        put64(f, 0x4000 + i * 8, (BAR & ~0x3fffffffull) + ((uint64_t)i << 21) + 0x87);
    }
    memset(c->seg, 0, sizeof c->seg);
    c->cr0 = SOFT_CR0_PE | SOFT_CR0_PG | SOFT_CR0_WP;
    c->cr4 = SOFT_CR4_PAE;
    c->efer = SOFT_EFER_LMA | SOFT_EFER_LME | SOFT_EFER_NXE;
    c->cr3 = 0x1000;
    c->cpl = 0;
    c->eflags = 0;
    c->dr[7] = 0;
    c->seg[SOFT_CS].l = true;
    c->seg[SOFT_CS].present = c->seg[SOFT_CS].s = true;
    c->seg[SOFT_CS].limit = ~0u;
    c->run_state = 0;
    c->exc.pending = false;
    c->leave = SOFT_LEAVE_NONE;
    c->block = &soft_unlinked;
    soft_tlb_flush(c);
    soft_mode_changed(c);
}

/* A thread that is a vCPU. */
struct worker {
    struct fix *f;
    struct soft_cpu *c;
    pthread_t id;
    bool *stop;
    uint64_t done;
};

#endif
