// SPDX-License-Identifier: Apache-2.0
#include "hv/base/loop.h"

#include <event2/event.h>
#include <event2/thread.h>
#include <pthread.h>
#include <stdlib.h>

struct fy_loop {
    struct event_base *base;
};

struct fy_watch {
    struct event *ev;
    union {
        fy_fd_cb fd;
        fy_timer_cb timer;
        fy_signal_cb signal;
    } cb;
    void *arg;
};

static pthread_once_t threads_once = PTHREAD_ONCE_INIT;

static void use_threads(void)
{
    evthread_use_pthreads();
}

struct fy_loop *fy_loop_new(struct fy_err *e)
{
    pthread_once(&threads_once, use_threads);
    struct fy_loop *loop = calloc(1, sizeof *loop);
    if (loop)
        loop->base = event_base_new();
    if (!loop || !loop->base) {
        free(loop);
        fy_fail(e, FY_ERESOURCE, "cannot make an event loop");
        return NULL;
    }
    return loop;
}

void fy_loop_free(struct fy_loop *loop)
{
    if (!loop)
        return;
    event_base_free(loop->base);
    free(loop);
}

static struct fy_watch *finish(struct fy_watch *w, const struct timeval *tv, bool add, struct fy_err *e)
{
    if (w && w->ev && (!add || event_add(w->ev, tv) == 0))
        return w;
    if (w && w->ev)
        event_free(w->ev);
    free(w);
    fy_fail(e, FY_ERESOURCE, "cannot watch a descriptor, timer or signal");
    return NULL;
}

static void on_fd(evutil_socket_t fd, short what, void *arg)
{
    struct fy_watch *w = arg;
    unsigned ready = (what & EV_READ ? FY_READ : 0) | (what & EV_WRITE ? FY_WRITE : 0);
    w->cb.fd(fd, ready, w->arg);
}

struct fy_watch *fy_watch_fd(struct fy_loop *loop, int fd, unsigned ready, fy_fd_cb cb, void *arg,
                             struct fy_err *e)
{
    struct fy_watch *w = calloc(1, sizeof *w);
    if (w) {
        w->cb.fd = cb;
        w->arg = arg;
        short what = EV_PERSIST;
        if (ready & FY_READ)
            what |= EV_READ;
        if (ready & FY_WRITE)
            what |= EV_WRITE;
        w->ev = event_new(loop->base, fd, what, on_fd, w);
    }
    return finish(w, NULL, true, e);
}

static void on_timer(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct fy_watch *w = arg;
    w->cb.timer(w->arg);
}

struct fy_watch *fy_timer_new(struct fy_loop *loop, fy_timer_cb cb, void *arg, struct fy_err *e)
{
    struct fy_watch *w = calloc(1, sizeof *w);
    if (w) {
        w->cb.timer = cb;
        w->arg = arg;
        w->ev = event_new(loop->base, -1, 0, on_timer, w);
    }
    return finish(w, NULL, false, e);
}

void fy_timer_arm(struct fy_watch *timer, uint64_t ms)
{
    struct timeval tv = {.tv_sec = (time_t)(ms / 1000), .tv_usec = (suseconds_t)(ms % 1000 * 1000)};
    event_add(timer->ev, &tv);
}

void fy_timer_disarm(struct fy_watch *timer)
{
    event_del(timer->ev);
}

static void on_signal(evutil_socket_t signo, short what, void *arg)
{
    (void)what;
    struct fy_watch *w = arg;
    w->cb.signal((int)signo, w->arg);
}

struct fy_watch *fy_watch_signal(struct fy_loop *loop, int signo, fy_signal_cb cb, void *arg,
                                 struct fy_err *e)
{
    struct fy_watch *w = calloc(1, sizeof *w);
    if (w) {
        w->cb.signal = cb;
        w->arg = arg;
        w->ev = evsignal_new(loop->base, signo, on_signal, w);
    }
    return finish(w, NULL, true, e);
}

void fy_watch_free(struct fy_watch *w)
{
    if (!w)
        return;
    event_free(w->ev);
    free(w);
}

int fy_loop_run(struct fy_loop *loop, struct fy_err *e)
{
    if (event_base_loop(loop->base, EVLOOP_NO_EXIT_ON_EMPTY) < 0)
        return fy_fail(e, FY_EFAIL, "the event loop cannot wait for events");
    return 0;
}

void fy_loop_stop(struct fy_loop *loop)
{
    event_base_loopbreak(loop->base);
}

struct post {
    fy_timer_cb cb;
    void *arg;
};

static void on_post(evutil_socket_t fd, short what, void *arg)
{
    (void)fd;
    (void)what;
    struct post p = *(struct post *)arg;
    free(arg);
    p.cb(p.arg);
}

int fy_loop_post(struct fy_loop *loop, fy_timer_cb cb, void *arg, struct fy_err *e)
{
    struct post *p = malloc(sizeof *p);
    struct timeval now = {0, 0};
    if (p) {
        *p = (struct post){cb, arg};
        if (event_base_once(loop->base, -1, EV_TIMEOUT, on_post, p, &now) == 0)
            return 0;
    }
    free(p);
    return fy_fail(e, FY_ERESOURCE, "no memory for a posted call");
}
