// SPDX-License-Identifier: Apache-2.0
/* The output gate: nothing passes that is held, nothing overtakes, nothing is lost or said twice; with
 * producers on threads of their own too. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/dev/gate.h"

#define ITEMS 64

struct out {
    struct fy_gate_item item;
    struct world *w;
    unsigned number;
};

struct world {
    struct fy_gate *g;
    unsigned seen[ITEMS], count, dropped;
    struct out items[ITEMS];
    struct out *follow; /* put out by the pass of the item before it */
};

static void put(struct world *w, unsigned i);

static void passed(struct fy_gate_item *item)
{
    struct out *o = (struct out *)item;
    struct world *w = o->w;
    w->seen[w->count++] = o->number;
    if (w->follow) {
        unsigned n = w->follow->number;
        w->follow = NULL;
        put(w, n);
    }
}

static void dropped(struct fy_gate_item *item)
{
    ((struct out *)item)->w->dropped++;
}

static void put(struct world *w, unsigned i)
{
    w->items[i] = (struct out){.item = {.pass = passed, .drop = dropped}, .w = w, .number = i};
    if (fy_gate_pass(w->g, &w->items[i].item))
        w->seen[w->count++] = i;
}

static void expect(const struct world *w, unsigned count)
{
    assert_int_equal(w->count, count);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(w->seen[i], i);
}

static void epochs_pass_in_order(void **state)
{
    (void)state;
    struct fy_err e;
    struct world w = {.g = fy_gate_new(&e)};
    put(&w, 0);
    expect(&w, 1);
    assert_false(fy_gate_holding(w.g));
    assert_int_equal(fy_gate_hold(w.g), 1);
    put(&w, 1);
    put(&w, 2);
    assert_int_equal(fy_gate_hold(w.g), 2);
    put(&w, 3);
    assert_int_equal(fy_gate_hold(w.g), 3);
    put(&w, 4);
    expect(&w, 1);
    assert_int_equal(fy_gate_kept(w.g), 4);
    assert_true(fy_gate_holding(w.g));

    assert_int_equal(fy_gate_release(w.g, 3, &e), -1); /* it goes on */
    assert_int_equal(e.code, FY_EUSAGE);
    assert_int_equal(fy_gate_release(w.g, 9, &e), -1);
    expect(&w, 1);
    assert_int_equal(fy_gate_release(w.g, 0, &e), 0);
    expect(&w, 1);
    assert_int_equal(fy_gate_release(w.g, 1, &e), 0);
    expect(&w, 3);
    assert_int_equal(fy_gate_release(w.g, 1, &e), 0); /* again: nothing more */
    expect(&w, 3);
    put(&w, 5);
    assert_int_equal(fy_gate_release(w.g, 2, &e), 0);
    expect(&w, 4);
    fy_gate_open(w.g);
    expect(&w, 6);
    put(&w, 6);
    expect(&w, 7);
    assert_int_equal(fy_gate_kept(w.g), 0);
    assert_int_equal(fy_gate_hold(w.g), 4); /* numbers are used once */
    fy_gate_free(w.g);
}

static void several_epochs_at_once(void **state)
{
    (void)state;
    struct fy_err e;
    struct world w = {.g = fy_gate_new(&e)};
    for (unsigned i = 0; i < 5; i++) {
        fy_gate_hold(w.g);
        put(&w, 2 * i);
        put(&w, 2 * i + 1);
    }
    assert_int_equal(fy_gate_release(w.g, 4, &e), 0);
    expect(&w, 8);
    fy_gate_open(w.g);
    expect(&w, 10);
    fy_gate_free(w.g);
}

/* What comes while earlier output is on its way out does not overtake it, also when the gate is open by then.
 */
static void nothing_overtakes(void **state)
{
    (void)state;
    struct fy_err e;
    struct world w = {.g = fy_gate_new(&e)};
    fy_gate_hold(w.g);
    put(&w, 0);
    put(&w, 1);
    w.items[2] = (struct out){.number = 2};
    w.follow = &w.items[2];
    fy_gate_open(w.g);
    expect(&w, 3);

    /* In a later epoch it stays behind. */
    fy_gate_hold(w.g);
    put(&w, 3);
    fy_gate_hold(w.g);
    w.items[4] = (struct out){.number = 4};
    w.follow = &w.items[4];
    assert_int_equal(fy_gate_release(w.g, 2, &e), 0);
    expect(&w, 4);
    assert_int_equal(fy_gate_kept(w.g), 1);
    fy_gate_open(w.g);
    expect(&w, 5);
    fy_gate_free(w.g);
}

static void discarded_never_passes(void **state)
{
    (void)state;
    struct fy_err e;
    struct world w = {.g = fy_gate_new(&e)};
    fy_gate_hold(w.g);
    put(&w, 0);
    put(&w, 1);
    fy_gate_discard(w.g);
    assert_int_equal(w.dropped, 2);
    assert_true(fy_gate_holding(w.g));
    fy_gate_open(w.g);
    assert_int_equal(w.count, 0);
    fy_gate_hold(w.g);
    put(&w, 2);
    fy_gate_free(w.g);
    assert_int_equal(w.dropped, 3);
    assert_int_equal(w.count, 0);
    assert_true(fy_gate_pass(NULL, &w.items[0].item));
}

#define THREADS 3
#define EACH 2000

struct counted {
    struct fy_gate_item item;
    struct producer *p;
    unsigned number;
};

struct producer {
    struct fy_gate *g;
    pthread_mutex_t lock; /* as a device's: held over fy_gate_pass and the output */
    pthread_cond_t some;
    unsigned next; /* the number that must come out next */
    bool broken;
    struct counted all[EACH];
};

static void out_locked(struct producer *p, unsigned number)
{
    if (number != p->next)
        p->broken = true;
    p->next++;
    pthread_cond_signal(&p->some);
}

static void counted_passed(struct fy_gate_item *item)
{
    struct counted *c = (struct counted *)item;
    pthread_mutex_lock(&c->p->lock);
    out_locked(c->p, c->number);
    pthread_mutex_unlock(&c->p->lock);
}

static void *produce(void *arg)
{
    struct producer *p = arg;
    for (unsigned i = 0; i < EACH; i++) {
        p->all[i] =
            (struct counted){.item = {.pass = counted_passed, .drop = counted_passed}, .p = p, .number = i};
        pthread_mutex_lock(&p->lock);
        if (fy_gate_pass(p->g, &p->all[i].item))
            out_locked(p, i);
        pthread_mutex_unlock(&p->lock);
    }
    return NULL;
}

/* Three producers against one who holds, releases and opens all the time: each's output comes whole and in
 * order. */
static void producers_on_threads(void **state)
{
    (void)state;
    struct fy_err e;
    struct fy_gate *g = fy_gate_new(&e);
    struct producer *p = calloc(THREADS, sizeof *p);
    pthread_t threads[THREADS];
    assert_non_null(p);
    for (int i = 0; i < THREADS; i++) {
        p[i].g = g;
        pthread_mutex_init(&p[i].lock, NULL);
        pthread_cond_init(&p[i].some, NULL);
        assert_int_equal(pthread_create(&threads[i], NULL, produce, &p[i]), 0);
    }
    for (unsigned round = 0; round < 400; round++) {
        uint64_t epoch = fy_gate_hold(g);
        fy_gate_hold(g);
        assert_int_equal(fy_gate_release(g, epoch, &e), 0);
        if (round % 5 == 0)
            fy_gate_open(g);
    }
    fy_gate_open(g);
    for (int i = 0; i < THREADS; i++) {
        pthread_mutex_lock(&p[i].lock);
        while (p[i].next < EACH)
            pthread_cond_wait(&p[i].some, &p[i].lock);
        pthread_mutex_unlock(&p[i].lock);
        pthread_join(threads[i], NULL);
        assert_false(p[i].broken);
        assert_int_equal(p[i].next, EACH);
        pthread_mutex_destroy(&p[i].lock);
        pthread_cond_destroy(&p[i].some);
    }
    assert_int_equal(fy_gate_kept(g), 0);
    fy_gate_free(g);
    free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(epochs_pass_in_order), cmocka_unit_test(several_epochs_at_once),
        cmocka_unit_test(nothing_overtakes),    cmocka_unit_test(discarded_never_passes),
        cmocka_unit_test(producers_on_threads),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
