// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/iothread.h"

#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>

#include "hv/base/log.h"
#include "hv/sandbox/sandbox.h"

#define STACK_BYTES (256u << 10)

struct fy_iothread {
    struct fy_loop *loop;
    pthread_t thread;
    char name[16];
};

/* A call that its caller waits for. */
struct call {
    void (*fn)(void *arg);
    void *arg;
    pthread_mutex_t lock;
    pthread_cond_t over;
    bool done;
};

static void *thread_main(void *arg)
{
    struct fy_iothread *t = arg;
    struct fy_err e;
    /* by itself: for another thread this would go through /proc */
    pthread_setname_np(pthread_self(), t->name);
    fy_sandbox_thread(FY_SANDBOX_IO);
    if (fy_loop_run(t->loop, &e) < 0)
        fy_error("a device's thread ends: %s", e.text);
    return NULL;
}

struct fy_iothread *fy_iothread_new(const char *name, struct fy_err *e)
{
    struct fy_iothread *t = calloc(1, sizeof *t);
    if (!t) {
        fy_fail(e, FY_ERESOURCE, "no memory for a device's thread");
        return NULL;
    }
    snprintf(t->name, sizeof t->name, "%s", name);
    t->loop = fy_loop_new(e);
    if (!t->loop) {
        free(t);
        return NULL;
    }
    sigset_t all, was;
    pthread_attr_t attr;
    sigfillset(&all);
    pthread_attr_init(&attr);
    pthread_attr_setstacksize(&attr, STACK_BYTES);
    pthread_sigmask(SIG_SETMASK, &all, &was);
    int err = pthread_create(&t->thread, &attr, thread_main, t);
    pthread_sigmask(SIG_SETMASK, &was, NULL);
    pthread_attr_destroy(&attr);
    if (err) {
        fy_fail_errno(e, FY_ERESOURCE, err, "cannot start a device's thread");
        fy_loop_free(t->loop);
        free(t);
        return NULL;
    }
    return t;
}

struct fy_loop *fy_iothread_loop(struct fy_iothread *t)
{
    return t->loop;
}

static void run_call(void *arg)
{
    struct call *c = arg;
    c->fn(c->arg);
    pthread_mutex_lock(&c->lock);
    c->done = true;
    pthread_cond_signal(&c->over);
    pthread_mutex_unlock(&c->lock);
}

void fy_iothread_run(struct fy_iothread *t, void (*fn)(void *arg), void *arg)
{
    struct call c = {.fn = fn, .arg = arg};
    struct fy_err e;
    if (pthread_equal(pthread_self(), t->thread)) {
        fn(arg);
        return;
    }
    pthread_mutex_init(&c.lock, NULL);
    pthread_cond_init(&c.over, NULL);
    /* Memory may be short for a moment; there is no going on without the call. */
    while (fy_loop_post(t->loop, run_call, &c, &e) < 0)
        sched_yield();
    pthread_mutex_lock(&c.lock);
    while (!c.done)
        pthread_cond_wait(&c.over, &c.lock);
    pthread_mutex_unlock(&c.lock);
    pthread_mutex_destroy(&c.lock);
    pthread_cond_destroy(&c.over);
}

static void stop_loop(void *arg)
{
    fy_loop_stop(arg);
}

void fy_iothread_free(struct fy_iothread *t)
{
    if (!t)
        return;
    /* On its own thread: a stop that came before the loop has begun would be lost. */
    fy_iothread_run(t, stop_loop, t->loop);
    pthread_join(t->thread, NULL);
    fy_loop_free(t->loop);
    free(t);
}
