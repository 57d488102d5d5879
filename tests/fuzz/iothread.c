// SPDX-License-Identifier: Apache-2.0
/* I/O threads for the fuzzer that are none: their loops run where the target says so, so that an input does
 * the same each time, and no time goes into handing over between threads. Takes the place of
 * hv/dev/iothread.c; the programs without the fuzzer, which run under ThreadSanitizer too, have real ones. */
#include "hv/dev/iothread.h"

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/virtio.h"

struct fy_iothread {
    struct fy_iothread *next;
    struct fy_loop *loop;
};

static struct fy_iothread *threads;
static bool running;

static void stop(void *arg)
{
    fy_loop_stop(arg);
}

/* What is ready by now: it comes before the stop. */
static void go_on(struct fy_iothread *t)
{
    struct fy_err e;
    running = true;
    MUST(fy_loop_post(t->loop, stop, t->loop, &e) == 0 && fy_loop_run(t->loop, &e) == 0);
    running = false;
}

void fuzz_iothreads_go_on(void)
{
    for (struct fy_iothread *t = threads; t; t = t->next)
        go_on(t);
}

struct fy_iothread *fy_iothread_new(const char *name, struct fy_err *e)
{
    (void)name;
    struct fy_iothread *t = calloc(1, sizeof *t);
    MUST(t && (t->loop = fy_loop_new(e)));
    t->next = threads;
    threads = t;
    return t;
}

void fy_iothread_free(struct fy_iothread *t)
{
    struct fy_iothread **p = &threads;
    if (!t)
        return;
    go_on(t);
    while (*p != t)
        p = &(*p)->next;
    *p = t->next;
    fy_loop_free(t->loop);
    free(t);
}

struct fy_loop *fy_iothread_loop(struct fy_iothread *t)
{
    return t->loop;
}

void fy_iothread_run(struct fy_iothread *t, void (*fn)(void *arg), void *arg)
{
    if (!running)
        go_on(t);
    fn(arg);
}
