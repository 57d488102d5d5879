// SPDX-License-Identifier: Apache-2.0
/* The software CPU: page walks against a model, the TLB, accesses that cross pages, devices. */
#include "tests/unit/soft_core_fixture.h"

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(walks, setup, teardown),
        cmocka_unit_test_setup_teardown(tables_outside_ram, setup, teardown),
        cmocka_unit_test_setup_teardown(invalidation, setup, teardown),
        cmocka_unit_test_setup_teardown(flushes, setup, teardown),
        cmocka_unit_test_setup_teardown(crossing, setup, teardown),
        cmocka_unit_test_setup_teardown(mmio, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
