// SPDX-License-Identifier: Apache-2.0
/* The software CPU among several vCPUs: log-dirty, handshakes, split locks. */
#include <pthread.h>
#include <sched.h>

#include "tests/unit/soft_core_fixture.h"

/* -- threads that stand for running vCPUs -- */

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

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(log_dirty, setup, teardown),
        cmocka_unit_test_setup_teardown(handshake_storm, setup, teardown),
        cmocka_unit_test_setup_teardown(split_locks, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
