// SPDX-License-Identifier: Apache-2.0
/* The software CPU's core without its system part: page walks against a model, the TLB, accesses, log-dirty,
 * decoded code, handshakes, locks, exact counts. */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"
#include "tests/unit/memory_fixture.h"

#define RAM (16ull << 20)
#define CPUS 4u
#define CODE 0x200000ull
#define DATA 0x300000ull
#define BAR 0xd0000000ull /* a device, by the bus */

/* What other parts have; the real ones win where they are linked. */
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
STUB struct soft_chips *soft_chips_new(struct soft_vm *vm, struct fy_err *e)
{
    (void)vm, (void)e;
    return (struct soft_chips *)malloc(1);
}
STUB void soft_chips_free(struct soft_chips *ch)
{
    free(ch);
}
STUB bool soft_chips_port(struct soft_cpu *c, uint16_t port, unsigned size, bool write, uint32_t *value)
{
    (void)c, (void)port, (void)size, (void)write, (void)value;
    return false;
}
STUB bool soft_chips_mmio(struct soft_cpu *c, uint64_t gpa, unsigned size, bool write, uint64_t *value)
{
    (void)c, (void)gpa, (void)size, (void)write, (void)value;
    return false;
}
STUB bool soft_irq_ready(const struct soft_cpu *c)
{
    (void)c;
    return false;
}
STUB int soft_irq_ack(struct soft_cpu *c)
{
    (void)c;
    return -1;
}

/* -- fixture -- */

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

static uint64_t bar_read(void *dev, uint64_t offset, unsigned size)
{
    struct access_log *l = dev;
    if (l->count < 32) {
        l->at[l->count].offset = offset;
        l->at[l->count].size = size;
        l->at[l->count++].write = false;
    }
    return 0x1122334455667788ull;
}
static void bar_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
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

static int setup(void **state)
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

static int teardown(void **state)
{
    struct fix *f = *state;
    soft_vm_free(f->vm);
    fy_bus_free(f->bus);
    fy_gmem_free(f->gmem);
    free(f);
    return 0;
}

static uint64_t seed = 88172645463325252ull;
static uint64_t rnd(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static uint8_t *ram(struct fix *f, uint64_t gpa)
{
    return fy_gmem_at(f->gmem, gpa, 1);
}
static void put64(struct fix *f, uint64_t gpa, uint64_t v)
{
    memcpy(ram(f, gpa), &v, 8);
}
static uint64_t get64(struct fix *f, uint64_t gpa)
{
    uint64_t v;
    memcpy(&v, ram(f, gpa), 8);
    return v;
}

/* Ring 0, 64-bit, identity-mapped with 2 MiB pages by tables at 0x1000; the first gigabyte is there, and
 * BAR. */
static void long_mode(struct fix *f, struct soft_cpu *c)
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

/* -- page walks against a model -- */

struct model {
    bool ok;
    uint32_t error;
    uint64_t gpa;
    unsigned leaf; /* which entry is the last one used */
};

/* One table of levels for each mode: shift of the index, bits of it, whether it may map a page. */
struct level {
    unsigned shift, bits;
    bool page;
};
static const struct level legacy_levels[] = {{22, 10, true}, {12, 10, true}};
static const struct level pae_levels[] = {{21, 9, true}, {12, 9, true}};
static const struct level long_levels[] = {{39, 9, false}, {30, 9, true}, {21, 9, true}, {12, 9, true}};

static struct model model(const struct soft_cpu *c, uint64_t lin, int how, int mmu, const uint64_t *entries,
                          const struct level *lv, unsigned n, unsigned entry_bytes)
{
    bool user = mmu == SOFT_MMU_USER, nxe = c->efer & SOFT_EFER_NXE && entry_bytes == 8;
    bool smep = c->cr4 & SOFT_CR4_SMEP;
    struct model m = {.error = (how == SOFT_WRITE ? 2u : 0) | (user ? 4u : 0) |
                               (how == SOFT_FETCH && (nxe || smep) ? 16u : 0)};
    bool rw = true, us = true, nx = false;
    for (unsigned i = 0; i < n; i++) {
        uint64_t e = entries[i];
        m.leaf = i;
        if (!(e & 1))
            return m;
        bool big = (e & 0x80) && i + 1 < n && (entry_bytes == 8 || (c->cr4 & SOFT_CR4_PSE));
        bool bad = big && !lv[i].page;
        if (entry_bytes == 8) {
            for (unsigned b = 40; b < 52; b++)
                bad |= e >> b & 1;
            bad |= (e >> 63) && !nxe;
            for (unsigned b = 52; b < 63; b++)
                bad |= (e >> b & 1) && !(c->efer & SOFT_EFER_LMA);
            for (unsigned b = 13; big && lv[i].page && b < lv[i].shift; b++)
                bad |= e >> b & 1;
        } else if (big) {
            bad |= e >> 21 & 1;
        }
        if (bad) {
            m.error |= 9;
            return m;
        }
        rw &= e >> 1 & 1;
        us &= e >> 2 & 1;
        nx |= nxe && e >> 63;
        if (!big && i + 1 < n)
            continue;
        uint64_t low = (1ull << lv[i].shift) - 1;
        uint64_t frame = e & 0xffffffffffull & ~0xfffull & ~low;
        if (entry_bytes == 4)
            frame = (e & 0xffffffffull & ~low) | (big ? (e >> 13 & 0xff) << 32 : 0);
        if (entry_bytes == 4 && !big)
            frame = e & 0xfffff000u;
        m.gpa = frame | (lin & low);
        break;
    }
    bool lift = mmu == SOFT_MMU_KERNEL_AC;
    bool smap = c->cr4 & SOFT_CR4_SMAP && !lift;
    if (user)
        m.ok = us && (how == SOFT_READ || (how == SOFT_WRITE && rw) || (how == SOFT_FETCH && !nx));
    else if (how == SOFT_FETCH)
        m.ok = !nx && !(us && smep);
    else
        m.ok = !(us && smap) && (how == SOFT_READ || rw || !(c->cr0 & SOFT_CR0_WP));
    if (!m.ok)
        m.error |= 1;
    return m;
}

static uint64_t random_flags(void)
{
    uint64_t e = rnd() & 0xe7 & ~0x80ull;
    e |= rnd() % 8 ? 1 : 0;
    e |= rnd() % 4 ? 0 : 0x80;
    if (rnd() % 16 == 0)
        e |= 1ull << (rnd() % 64);
    if (rnd() % 4 == 0)
        e |= 1ull << 63;
    return e;
}

static void check_walk(struct fix *f, int kind)
{
    struct soft_cpu *c = f->vm->cpus[0];
    const struct level *lv = kind == 0 ? legacy_levels : kind == 1 ? pae_levels : long_levels;
    unsigned n = kind == 2 ? 4 : 2, bytes = kind == 0 ? 4 : 8;
    uint64_t entries[4], at[4], lin = rnd();
    lin = kind == 2 ? (uint64_t)((int64_t)(lin << 16) >> 16) : (uint32_t)lin;
    c->cr0 = SOFT_CR0_PE | SOFT_CR0_PG | (rnd() & SOFT_CR0_WP);
    c->cr4 = (rnd() & (SOFT_CR4_SMEP | SOFT_CR4_SMAP | SOFT_CR4_PSE)) | (kind ? SOFT_CR4_PAE : 0);
    c->efer = (rnd() & SOFT_EFER_NXE) | (kind == 2 ? SOFT_EFER_LMA | SOFT_EFER_LME : 0);
    uint64_t table = 0x10000;
    c->cr3 = table;
    for (unsigned i = 0; i < 4; i++)
        c->pdptr[i] = table | 1;
    for (unsigned i = 0; i < n; i++) {
        at[i] = table + (lin >> lv[i].shift & ((1u << lv[i].bits) - 1)) * bytes;
        table += 0x1000;
        uint64_t flags = random_flags();
        bool big = (flags & 0x80) && i + 1 < n && (bytes == 8 || (c->cr4 & SOFT_CR4_PSE));
        if (!big && i + 1 < n)
            flags &= ~0xfffffff000ull; /* the next table is where it is */
        entries[i] = flags | (big ? (rnd() & 7) << 30 : i + 1 == n ? 0x123000 : table);
        if (bytes == 4)
            entries[i] = (uint32_t)entries[i];
        memcpy(ram(f, at[i]), &entries[i], bytes);
    }
    int how = (int)(rnd() % 3), mmu = (int)(rnd() % 3);
    struct model m = model(c, lin, how, mmu, entries, lv, n, bytes);
    struct soft_xlate x;
    c->exc.pending = false;
    bool ok = soft_walk(c, lin, how, mmu, &x);
    assert_int_equal(ok, m.ok);
    for (unsigned i = 0; i < n; i++) {
        uint64_t now = 0;
        memcpy(&now, ram(f, at[i]), bytes);
        uint64_t want = entries[i];
        if (m.ok && i <= m.leaf)
            want |= 0x20 | (i == m.leaf && how == SOFT_WRITE ? 0x40 : 0);
        assert_int_equal(now, want);
    }
    if (ok) {
        assert_int_equal(x.gpa, m.gpa);
        uint64_t now = 0;
        memcpy(&now, ram(f, at[m.leaf]), bytes);
        for (int h = 0; h < 3; h++) {
            bool can = model(c, lin, h, mmu, entries, lv, n, bytes).ok && (h != SOFT_WRITE || (now & 0x40));
            assert_int_equal(h == SOFT_READ ? x.read : h == SOFT_WRITE ? x.write : x.exec, can);
        }
    } else {
        assert_true(c->exc.pending);
        assert_int_equal(c->exc.vector, SOFT_PFX);
        assert_int_equal(c->exc.error, m.error);
        assert_int_equal(c->exc.cr2, lin);
    }
}

static void walks(void **state)
{
    for (unsigned i = 0; i < 200000; i++)
        check_walk(*state, (int)(i % 3));
}

static void tables_outside_ram(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    long_mode(f, c);
    put64(f, 0x1000, 0x5000000000ull | 7);
    struct soft_xlate x;
    assert_false(soft_walk(c, 0x1000, SOFT_READ, SOFT_MMU_KERNEL, &x));
    assert_int_equal(c->exc.error, 9);
    for (unsigned i = 0; i < 4; i++)
        put64(f, 0x8000 + i * 8, 0x9001 + i * 0x1000);
    assert_true(soft_load_pdptrs(c, 0x8000));
    assert_int_equal(c->pdptr[3], 0xc001);
    put64(f, 0x8008, 0x9003);
    assert_false(soft_load_pdptrs(c, 0x8000));
    assert_int_equal(c->exc.vector, SOFT_GP);
}

/* -- TLB and accesses -- */

static void invalidation(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t v, lin = 0x40000000ull;
    long_mode(f, c);
    put64(f, 0x2008, 0x5000 | 7);
    put64(f, 0x5000, 0x6000 | 7);
    put64(f, 0x6000, DATA | 7);
    put64(f, DATA, 11);
    put64(f, DATA + 0x1000, 22);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 11);
    put64(f, 0x6000, (DATA + 0x1000) | 7);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 11);
    soft_tlb_flush_page(c, lin);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 22);
    /* A large page goes wholly, whichever of its addresses is named. */
    put64(f, 0x200000, 33);
    put64(f, 0x400000, 44);
    put64(f, 0x5000, 0x200000 | 0x87);
    soft_tlb_flush(c);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 33);
    put64(f, 0x5000, 0x400000 | 0x87);
    soft_tlb_flush_page(c, lin + 0x1ff000);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 44);
    /* The dirty bit comes with the first write, not with a read before it. */
    assert_int_equal(get64(f, 0x5000) & 0x60, 0x20);
    assert_true(soft_st64(c, lin, 5));
    assert_int_equal(get64(f, 0x5000) & 0x60, 0x60);
    assert_int_equal(get64(f, 0x400000), 5);
}

/* However many entries were filled, a flush leaves none. */
static void flushes(void **state)
{
    static const unsigned counts[] = {1, SOFT_TLB_LISTED - 1, SOFT_TLB_LISTED, SOFT_TLB_LISTED + 1, 1500};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t v, lin = 0x40000000ull;
    long_mode(f, c);
    put64(f, 0x2008, 0x5000 | 7);
    for (unsigned i = 0; i < 3; i++)
        put64(f, 0x5000 + 8 * i, (0x6000 + 0x1000ull * i) | 7);
    put64(f, DATA, 11);
    put64(f, DATA + 0x1000, 22);
    for (unsigned k = 0; k < sizeof counts / sizeof *counts; k++) {
        for (unsigned i = 0; i < counts[k]; i++)
            put64(f, 0x6000 + 8 * i, DATA | 7);
        soft_tlb_flush(c);
        for (unsigned i = 0; i < counts[k]; i++) {
            assert_true(soft_ld64(c, lin + 0x1000ull * i, &v));
            assert_int_equal(v, 11);
            put64(f, 0x6000 + 8 * i, (DATA + 0x1000) | 7);
        }
        /* Some go by themselves and come back before. */
        soft_tlb_flush_page(c, lin);
        assert_true(soft_ld64(c, lin, &v));
        assert_int_equal(v, 22);
        soft_tlb_flush(c);
        for (unsigned i = 0; i < counts[k]; i++) {
            assert_true(soft_ld64(c, lin + 0x1000ull * i, &v));
            assert_int_equal(v, 22);
        }
    }
}

static void crossing(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t v, lin = 0x40000ffcull;
    long_mode(f, c);
    put64(f, 0x2008, 0x5000 | 7);
    put64(f, 0x5000, 0x6000 | 7);
    put64(f, 0x6000, DATA | 7);
    put64(f, 0x6008, 0);
    put64(f, DATA + 0xff8, 0);
    assert_false(soft_st64(c, lin, ~0ull));
    assert_int_equal(c->exc.error, 2);
    assert_int_equal(c->exc.cr2, 0x40001000);
    assert_int_equal(get64(f, DATA + 0xff8), 0);
    put64(f, 0x6008, (DATA + 0x4000) | 5);
    assert_false(soft_st64(c, lin, ~0ull));
    assert_int_equal(c->exc.error, 3);
    assert_int_equal(get64(f, DATA + 0xff8), 0);
    put64(f, 0x6008, (DATA + 0x4000) | 7);
    assert_true(soft_st64(c, lin, 0x1122334455667788ull));
    assert_int_equal(get64(f, DATA + 0xff8), 0x5566778800000000ull);
    assert_int_equal(get64(f, DATA + 0x4000), 0x11223344);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 0x1122334455667788ull);
    uint64_t *p = soft_rmw_begin(c, lin, 8);
    assert_non_null(p);
    *p += 1;
    soft_rmw_end(c, p);
    assert_true(soft_ld64(c, lin, &v));
    assert_int_equal(v, 0x1122334455667789ull);
    /* Not canonical; and where the second half would not be. */
    assert_false(soft_ld64(c, 0x0000800000000000ull, &v));
    assert_int_equal(c->exc.vector, SOFT_GP);
    assert_true(c->exc.canonical);
    /* #AC */
    c->cpl = 3;
    c->cr0 |= SOFT_CR0_AM;
    c->eflags |= SOFT_EFL_AC;
    soft_mode_changed(c);
    c->exc.pending = false;
    assert_false(soft_ld64(c, DATA + 4, &v));
    assert_int_equal(c->exc.vector, SOFT_AC);
    assert_true(soft_ld64(c, DATA + 8, &v));
}

static void mmio(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint8_t b[16];
    uint64_t v;
    long_mode(f, c);
    memset(&f->log, 0, sizeof f->log);
    assert_true(soft_ld64(c, BAR, &v));
    assert_int_equal(v, 0x1122334455667788ull);
    assert_true(soft_ld(c, BAR + 3, 7, b));
    static const unsigned offs[] = {0, 3, 4, 8}, sizes[] = {8, 1, 4, 2};
    assert_int_equal(f->log.count, 4);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(f->log.at[i].offset, offs[i]);
        assert_int_equal(f->log.at[i].size, sizes[i]);
    }
    f->log.count = 0;
    assert_true(soft_st64(c, BAR + 0xffc, 0x1234567890abcdefull));
    assert_int_equal(f->log.count, 2);
    assert_int_equal(f->log.at[0].value, 0x90abcdef);
    assert_int_equal(f->log.at[1].offset, 0x1000);
    assert_int_equal(f->log.at[1].value, 0x12345678);
    /* Neither RAM nor claimed. */
    assert_true(soft_ld64(c, 0x3f000000, &v));
    assert_true(v == ~0ull);
    unsigned room;
    assert_null(soft_direct(c, BAR, SOFT_READ, &room));
    assert_false(c->exc.pending);
}

/* -- threads that stand for running vCPUs -- */

struct worker {
    struct fix *f;
    struct soft_cpu *c;
    pthread_t id;
    bool *stop;
    uint64_t done;
};

/* Between "blocks" of accesses. */
static void boundary(struct soft_cpu *c)
{
    if (__atomic_load_n(&c->limit, __ATOMIC_RELAXED) == 0) {
        __atomic_store_n(&c->limit, 1, __ATOMIC_SEQ_CST);
        soft_take_requests(c, true);
    }
}

static void run_workers(struct fix *f, unsigned n, void *(*main)(void *), struct worker *w, bool *stop)
{
    *stop = false;
    for (unsigned i = 0; i < n; i++) {
        w[i] = (struct worker){.f = f, .c = f->vm->cpus[i], .stop = stop};
        long_mode(f, w[i].c);
    }
    for (unsigned i = 0; i < n; i++)
        assert_int_equal(pthread_create(&w[i].id, NULL, main, &w[i]), 0);
}

static void join_workers(struct worker *w, unsigned n, bool *stop)
{
    __atomic_store_n(stop, true, __ATOMIC_SEQ_CST);
    for (unsigned i = 0; i < n; i++)
        pthread_join(w[i].id, NULL);
}

#define HAMMER_PAGES 64u

static void *hammer(void *arg)
{
    struct worker *w = arg;
    uint64_t s = 99 + w->c->index;
    soft_enter_guest(w->c);
    while (!__atomic_load_n(w->stop, __ATOMIC_SEQ_CST)) {
        for (unsigned i = 0; i < 16; i++) {
            s = s * 6364136223846793005ull + 1442695040888963407ull;
            uint64_t lin = DATA + (s >> 33) % HAMMER_PAGES * 4096 + w->c->index * 64 + (s >> 50) % 8 * 8;
            soft_st64(w->c, lin, s);
            bool direct;
            uint64_t *p = soft_lock_begin(w->c, lin + 1024, 8, &direct);
            if (p && direct)
                __atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST);
            if (p)
                soft_lock_end(w->c, p, direct);
        }
        __atomic_fetch_add(&w->done, 1, __ATOMIC_RELAXED);
        boundary(w->c);
    }
    soft_leave_guest(w->c);
    return NULL;
}

SOFT_RACY static void copy_page(uint8_t *to, const uint8_t *from)
{
    soft_copy(to, from, 4095);
    to[4095] = from[4095];
}

/* Every page that is not reported is as it was when last taken. */
static void log_dirty(void **state)
{
    struct fix *f = *state;
    struct worker w[2];
    bool stop;
    struct fy_err e;
    uint64_t taken = 0, dirty, remaining;
    uint8_t *shadow = calloc(HAMMER_PAGES, 4096);
    struct fy_logdirty *ld = fy_logdirty_new(f->gmem, &soft_dirty_ops, f->vm, &e);
    run_workers(f, 2, hammer, w, &stop);
    struct fy_tracker *t = fy_tracker_open(ld, true, &e);
    assert_non_null(t);
    uint64_t *bits = mmap(NULL, RAM / 4096 / 8, PROT_READ, MAP_SHARED, fy_tracker_fd(t), 0);
    bool last = false;
    for (unsigned round = 0; !last; round++) {
        /* Both have been at it all the while. */
        last = round >= 2000 && __atomic_load_n(&w[0].done, __ATOMIC_RELAXED) > 2000 &&
               __atomic_load_n(&w[1].done, __ATOMIC_RELAXED) > 2000;
        if (last)
            join_workers(w, 2, &stop);
        assert_int_equal(fy_tracker_take(t, DATA / 4096, HAMMER_PAGES, true, &dirty, &remaining, &e), 0);
        for (uint64_t i = 0; i < HAMMER_PAGES; i++) {
            uint64_t page = DATA / 4096 + i;
            if (!(bits[page / 64] >> (page % 64) & 1))
                continue;
            copy_page(shadow + i * 4096, ram(f, page * 4096));
            taken++;
        }
        fy_tracker_done(t);
    }
    assert_memory_equal(shadow, ram(f, DATA), HAMMER_PAGES * 4096);
    assert_true(taken > HAMMER_PAGES);
    munmap(bits, RAM / 4096 / 8);
    fy_tracker_close(t);
    fy_logdirty_free(ld);
    free(shadow);
}

static void *storm(void *arg)
{
    struct worker *w = arg;
    soft_enter_guest(w->c);
    for (unsigned i = 0; i < 2000; i++) {
        soft_st64(w->c, DATA + w->c->index * 4096, i);
        if (i % 3 == 0)
            soft_handshake(w->c->vm, w->c, ~0ull, SOFT_REQ_FLUSH_WRITE);
        else if (i % 3 == 1)
            soft_request(w->f->vm->cpus[(w->c->index + i) % CPUS], SOFT_REQ_CODE);
        boundary(w->c);
        w->done++;
    }
    soft_leave_guest(w->c);
    return NULL;
}

static void handshake_storm(void **state)
{
    struct worker w[CPUS];
    bool stop;
    run_workers(*state, CPUS, storm, w, &stop);
    for (unsigned i = 0; i < 500; i++)
        soft_handshake(((struct fix *)*state)->vm, NULL, ~0ull, SOFT_REQ_FLUSH);
    join_workers(w, CPUS, &stop);
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(w[i].done, 2000);
}

#define LOCKS 500u

static void *split(void *arg)
{
    struct worker *w = arg;
    /* Across a cache line, across a page, and one that is aligned. */
    static const uint64_t at[] = {DATA + 61, DATA + 0x1ffd, DATA + 0x3000};
    soft_enter_guest(w->c);
    for (unsigned i = 0; i < LOCKS * 3; i++) {
        bool direct;
        uint64_t *p = soft_lock_begin(w->c, at[i % 3], 8, &direct);
        if (direct)
            __atomic_fetch_add(p, 1, __ATOMIC_SEQ_CST);
        else
            ++*p;
        soft_lock_end(w->c, p, direct);
        boundary(w->c);
    }
    soft_leave_guest(w->c);
    return NULL;
}

static void split_locks(void **state)
{
    struct fix *f = *state;
    struct worker w[CPUS];
    bool stop;
    memset(ram(f, DATA), 0, 0x4000);
    run_workers(f, CPUS, split, w, &stop);
    join_workers(w, CPUS, &stop);
    assert_int_equal(get64(f, DATA + 61), LOCKS * CPUS);
    assert_int_equal(get64(f, DATA + 0x1ffd), LOCKS * CPUS);
    assert_int_equal(get64(f, DATA + 0x3000), LOCKS * CPUS);
}

/* -- code -- */

static void start(struct fix *f, struct soft_cpu *c, const void *code, size_t n)
{
    long_mode(f, c);
    memcpy(ram(f, CODE), code, n);
    fy_gmem_mark(f->gmem, CODE, n);
    memset(c->gpr, 0, sizeof c->gpr);
    c->rip = CODE;
    c->insns = 0;
    c->run_limit = UINT64_MAX;
}

/* 0: inc rax; 3: inc rbx; 6: dec rcx; 9: jnz 0; 11: jmp 0 */
static const uint8_t counting[] = {0x48, 0xff, 0xc0, 0x48, 0xff, 0xc3, 0x48,
                                   0xff, 0xc9, 0x75, 0xf5, 0xeb, 0xf3};

static void exact_stop(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    start(f, c, counting, sizeof counting);
    c->gpr[SOFT_RCX] = 5;
    /* The model: which instruction runs when. */
    uint64_t rax = 0, rbx = 0, rcx = 5, rip = CODE;
    uint64_t at = 0;
    for (unsigned i = 0; i < 3000; i++) {
        uint64_t stop = at + rnd() % 40;
        for (; at < stop; at++) {
            switch (rip - CODE) {
            case 0:
                rax++, rip += 3;
                break;
            case 3:
                rbx++, rip += 3;
                break;
            case 6:
                rcx--, rip += 3;
                break;
            case 9:
                rip = rcx ? CODE : CODE + 11;
                break;
            default:
                rip = CODE;
            }
        }
        c->run_limit = stop;
        assert_int_equal(soft_loop(c), FY_VCPU_KICKED);
        assert_int_equal(c->insns, stop);
        assert_int_equal(c->rip, rip);
        assert_int_equal(c->gpr[SOFT_RAX], rax);
        assert_int_equal(c->gpr[SOFT_RBX], rbx);
        assert_int_equal(c->gpr[SOFT_RCX], rcx);
    }
}

/* Its own block: a byte store changes "inc rbx" right behind it into "inc rax"'s register form.
 * 0: mov [rdi], al; 2: inc rbx (ff c3); 5: mov [rdi], dl; 7: jmp 0. rdi points at the ModRM byte. */
static void own_block(void **state)
{
    static const uint8_t code[] = {0x88, 0x07, 0x48, 0xff, 0xc3, 0x88, 0x17, 0xeb, 0xf7};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    start(f, c, code, sizeof code);
    c->gpr[SOFT_RDI] = CODE + 4;
    c->gpr[SOFT_RAX] = 0xc6; /* inc rsi */
    c->gpr[SOFT_RDX] = 0xc3;
    c->run_limit = 4000;
    assert_int_equal(soft_loop(c), FY_VCPU_KICKED);
    assert_int_equal(c->insns, 4000);
    assert_int_equal(c->gpr[SOFT_RSI], 1000);
    assert_int_equal(c->gpr[SOFT_RBX], 0);
    assert_int_equal(c->rip, CODE);
}

static void *loop_main(void *arg)
{
    struct worker *w = arg;
    soft_loop(w->c);
    return NULL;
}

/* Another vCPU, then a device, changes the code of a running one: "inc rbx" becomes "inc rsi". */
static void other_writes(void **state)
{
    static const uint8_t code[] = {0x48, 0xff, 0xc3, 0xeb, 0xfb};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0], *o = f->vm->cpus[1];
    long_mode(f, o);
    for (unsigned i = 0; i < 20; i++) {
        start(f, c, code, sizeof code);
        /* The other one holds a write way before the page becomes code. */
        soft_enter_guest(o);
        assert_true(soft_st8(o, CODE + 2, 0xc3));
        soft_leave_guest(o);
        struct worker w = {.f = f, .c = c};
        assert_int_equal(pthread_create(&w.id, NULL, loop_main, &w), 0);
        while (!__atomic_load_n(&f->vm->code_users[CODE / 4096], __ATOMIC_SEQ_CST))
            sched_yield();
        uint8_t modrm = 0xc6;
        if (i % 2) {
            struct fy_err e;
            assert_int_equal(fy_gmem_write(f->gmem, CODE + 2, &modrm, 1, &e), 0);
        } else {
            soft_enter_guest(o);
            assert_true(soft_st8(o, CODE + 2, modrm));
            soft_leave_guest(o);
        }
        /* It is seen: the page is decoded again. */
        while (!__atomic_load_n(&f->vm->code_users[CODE / 4096], __ATOMIC_SEQ_CST))
            sched_yield();
        soft_request(c, SOFT_REQ_KICK);
        pthread_join(w.id, NULL);
        c->requests = 0;
        c->run_limit = c->insns + 1000;
        uint64_t rbx = c->gpr[SOFT_RBX], rsi = c->gpr[SOFT_RSI];
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX], rbx);
        assert_true(c->gpr[SOFT_RSI] >= rsi + 499);
    }
}

/* An instruction across two pages, whose second page is mapped elsewhere afterwards. */
static void straddle(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t lin = 0x40000000ull;
    start(f, c, counting, sizeof counting);
    put64(f, 0x2008, 0x5000 | 7);
    put64(f, 0x5000, 0x6000 | 7);
    put64(f, 0x6000, CODE | 7);
    for (unsigned i = 0; i < 2; i++) {
        uint64_t page = DATA + i * 0x1000;
        /* 48 ff | c3 (inc rbx) or c6 (inc rsi); jmp to the start */
        static const uint8_t tail[2][3] = {{0xc3, 0xeb, 0xfb}, {0xc6, 0xeb, 0xfb}};
        memcpy(ram(f, page), tail[i], 3);
    }
    memcpy(ram(f, CODE + 0xffe), "\x48\xff", 2);
    fy_gmem_mark(f->gmem, CODE, 4096);
    for (unsigned i = 0; i < 6; i++) {
        put64(f, 0x6008, (DATA + i % 2 * 0x1000) | 7);
        soft_tlb_flush_page(c, lin + 0x1000);
        uint64_t rbx = c->gpr[SOFT_RBX], rsi = c->gpr[SOFT_RSI];
        c->rip = lin + 0xffe;
        c->run_limit = c->insns + 100;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, i % 2 ? 0 : 50);
        assert_int_equal(c->gpr[SOFT_RSI] - rsi, i % 2 ? 50 : 0);
    }
    /* Its second page goes away: the fetch faults there. */
    put64(f, 0x6008, 0);
    soft_tlb_flush_page(c, lin + 0x1000);
    c->exc.pending = false;
    assert_null(soft_find(c, lin + 0xffe));
    assert_true(c->exc.pending);
    assert_int_equal(c->exc.vector, SOFT_PFX);
    assert_int_equal(c->exc.cr2, lin + 0x1000);
}

/* CODE at 1 GiB, and DATA in the page behind it. */
static void two_pages(struct fix *f)
{
    put64(f, 0x2008, 0x5000 | 7);
    put64(f, 0x5000, 0x6000 | 7);
    put64(f, 0x6000, CODE | 7);
    put64(f, 0x6008, DATA | 7);
}

/* A loop through two pages, the second of which is written, moved elsewhere, and goes away. */
static void far_branches(void **state)
{
    static const uint8_t first[] = {0x48, 0xff, 0xc3, 0xe9, 0xf8, 0x0f, 0x00, 0x00}; /* inc rbx; jmp +4096 */
    /* inc rsi, or rdi, or rbp; jmp back */
    static const uint8_t second[3][8] = {{0x48, 0xff, 0xc6, 0xe9, 0xf8, 0xef, 0xff, 0xff},
                                         {0x48, 0xff, 0xc7, 0xe9, 0xf8, 0xef, 0xff, 0xff},
                                         {0x48, 0xff, 0xc5, 0xe9, 0xf8, 0xef, 0xff, 0xff}};
    static const unsigned counters[] = {SOFT_RSI, SOFT_RDI, SOFT_RBP};
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t lin = 0x40000000ull, v;
    start(f, c, first, sizeof first);
    two_pages(f);
    memcpy(ram(f, DATA), second[0], 8);
    memcpy(ram(f, DATA + 0x1000), second[2], 8);
    fy_gmem_mark(f->gmem, DATA, 8192);
    c->rip = lin;
    for (unsigned i = 0; i < 3; i++) {
        if (i == 1) { /* written by the guest, through another mapping */
            memcpy(&v, second[1], 8);
            assert_true(soft_st64(c, DATA, v));
        } else if (i == 2) {
            put64(f, 0x6008, (DATA + 0x1000) | 7);
            soft_tlb_flush_page(c, lin + 0x1000);
        }
        uint64_t rbx = c->gpr[SOFT_RBX], other = c->gpr[counters[i]];
        c->run_limit = c->insns + 400;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, 100);
        assert_int_equal(c->gpr[counters[i]] - other, 100);
        assert_int_equal(c->rip, lin);
    }
    put64(f, 0x6008, 0);
    soft_tlb_flush_page(c, lin + 0x1000);
    c->run_limit = c->insns + 400;
    soft_loop(c);
    assert_int_equal(c->rip, lin + 0x1000);
}

/* Returns: to where the call was, elsewhere, through more calls than are remembered, and to address 0. */
static void returns(void **state)
{
    static const uint8_t caller[] = {0xe8, 0xfb, 0x0f, 0x00, 0x00,
                                     0x48, 0xff, 0xc3, 0xeb, 0xf6}; /* call +4096; inc rbx; jmp back */
    static const uint8_t plain[] = {0xc3};
    static const uint8_t beyond[] = {0x48, 0x83, 0x04, 0x24, 0x03, 0xc3}; /* add qword [rsp], 3; ret */
    /* dec rcx; jz +5; call itself; inc rsi; ret */
    static const uint8_t deep[] = {0x48, 0xff, 0xc9, 0x74, 0x05, 0xe8, 0xf6,
                                   0xff, 0xff, 0xff, 0x48, 0xff, 0xc6, 0xc3};
    static const uint8_t null[] = {0x6a, 0x00, 0xc3}; /* push 0; ret */
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    uint64_t lin = 0x40000000ull;
    start(f, c, caller, sizeof caller);
    two_pages(f);
    c->rip = lin;
    c->gpr[SOFT_RSP] = DATA + 0x2000;
    for (unsigned i = 0; i < 3; i++) {
        memcpy(ram(f, DATA), i == 1 ? beyond : plain, i == 1 ? sizeof beyond : sizeof plain);
        fy_gmem_mark(f->gmem, DATA, 4096);
        soft_take_requests(c, true);
        uint64_t rbx = c->gpr[SOFT_RBX];
        c->run_limit = c->insns + 400;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, i == 1 ? 0 : 100);
        assert_int_equal(c->gpr[SOFT_RSP], DATA + 0x2000);
        assert_int_equal(c->rip, lin);
    }
    memcpy(ram(f, DATA), deep, sizeof deep);
    fy_gmem_mark(f->gmem, DATA, 4096);
    soft_take_requests(c, true);
    for (unsigned i = 0; i < 3; i++) {
        uint64_t rbx = c->gpr[SOFT_RBX], rsi = c->gpr[SOFT_RSI];
        c->gpr[SOFT_RCX] = 100;
        c->run_limit = c->insns + 1 + 100 * 4 + 99 + 2;
        soft_loop(c);
        assert_int_equal(c->gpr[SOFT_RSI] - rsi, 100);
        assert_int_equal(c->gpr[SOFT_RBX] - rbx, 1);
        assert_int_equal(c->rip, lin);
    }
    soft_calls_forget(c);
    memcpy(ram(f, 0), counting, sizeof counting);
    memcpy(ram(f, CODE + 0x100), null, sizeof null);
    fy_gmem_mark(f->gmem, CODE, 4096);
    soft_take_requests(c, true);
    c->rip = lin + 0x100;
    c->gpr[SOFT_RAX] = 0;
    c->run_limit = c->insns + 3;
    soft_loop(c);
    assert_int_equal(c->rip, 3);
    assert_int_equal(c->gpr[SOFT_RAX], 1);
}

static void kick(void **state)
{
    struct fix *f = *state;
    struct soft_cpu *c = f->vm->cpus[0];
    for (unsigned i = 0; i < 200; i++) {
        start(f, c, counting, sizeof counting);
        c->run_state = i % 2 ? 3 : 0; /* halted, too */
        c->requests = 0;
        struct worker w = {.f = f, .c = c};
        assert_int_equal(pthread_create(&w.id, NULL, loop_main, &w), 0);
        if (i % 4 < 2)
            sched_yield();
        soft_request(c, SOFT_REQ_KICK);
        pthread_join(w.id, NULL);
        assert_int_equal(c->run_state, i % 2 ? 3 : 0);
        assert_int_equal(soft_loop(c), FY_VCPU_KICKED); /* it stands */
    }
    c->requests = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(walks, setup, teardown),
        cmocka_unit_test_setup_teardown(tables_outside_ram, setup, teardown),
        cmocka_unit_test_setup_teardown(invalidation, setup, teardown),
        cmocka_unit_test_setup_teardown(flushes, setup, teardown),
        cmocka_unit_test_setup_teardown(crossing, setup, teardown),
        cmocka_unit_test_setup_teardown(mmio, setup, teardown),
        cmocka_unit_test_setup_teardown(log_dirty, setup, teardown),
        cmocka_unit_test_setup_teardown(handshake_storm, setup, teardown),
        cmocka_unit_test_setup_teardown(split_locks, setup, teardown),
        cmocka_unit_test_setup_teardown(exact_stop, setup, teardown),
        cmocka_unit_test_setup_teardown(own_block, setup, teardown),
        cmocka_unit_test_setup_teardown(other_writes, setup, teardown),
        cmocka_unit_test_setup_teardown(straddle, setup, teardown),
        cmocka_unit_test_setup_teardown(far_branches, setup, teardown),
        cmocka_unit_test_setup_teardown(returns, setup, teardown),
        cmocka_unit_test_setup_teardown(kick, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
