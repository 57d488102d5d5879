// SPDX-License-Identifier: Apache-2.0
/* Runs a program to its end and collects what it prints. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/host/daemon.h"
#include "hv/host/spawn.h"

#define OUT_MAX (1024 * 1024)

struct fyd_run {
    struct fyd *d;
    fyd_run_cb cb;
    void *arg;
    int pidfd, out;
    struct fy_watch *pid_watch, *out_watch, *timer;
    char *buf;
    size_t len, room;
    bool timed_out;
    struct fy_err err;
};

static void take_output(struct fyd_run *r)
{
    char chunk[4096];
    for (;;) {
        ssize_t n = read(r->out, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) {
            /* At the end the pipe stays readable: stop looking. */
            if (n == 0) {
                fy_watch_free(r->out_watch);
                r->out_watch = NULL;
            }
            return;
        }
        size_t take = (size_t)n;
        if (r->len + take > OUT_MAX)
            take = OUT_MAX - r->len;
        if (r->len + take + 1 > r->room) {
            size_t room = (r->len + take + 1) * 2;
            char *p = realloc(r->buf, room);
            if (!p)
                return;
            r->buf = p;
            r->room = room;
        }
        memcpy(r->buf + r->len, chunk, take);
        r->len += take;
        r->buf[r->len] = 0;
    }
}

static void over(struct fyd_run *r, const struct fy_err *err, bool clean)
{
    r->cb(r->arg, err, clean, r->buf ? r->buf : "", r->len);
    fy_watch_free(r->pid_watch);
    fy_watch_free(r->out_watch);
    fy_watch_free(r->timer);
    fy_close(&r->pidfd);
    fy_close(&r->out);
    free(r->buf);
    free(r);
}

static void on_end(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fyd_run *r = arg;
    char how[96];
    bool clean;
    if (!fyd_reap(fd, how, sizeof how, &clean))
        return;
    take_output(r);
    if (r->timed_out)
        fy_fail(&r->err, FY_EDEADLINE, "the program did not end in time");
    over(r, r->timed_out ? &r->err : NULL, clean);
}

static void on_out(int fd, unsigned ready, void *arg)
{
    (void)fd;
    (void)ready;
    take_output(arg);
}

static void on_timer(void *arg)
{
    struct fyd_run *r = arg;
    r->timed_out = true;
    fyd_kill(r->pidfd);
}

static void failed_later(void *arg)
{
    struct fyd_run *r = arg;
    over(r, &r->err, false);
}

void fyd_run_program(struct fyd *d, const char *program, const char *const *argv, const int *fds, int nfds,
                     unsigned timeout_ms, fyd_run_cb cb, void *arg)
{
    struct fyd_run *r = calloc(1, sizeof *r);
    if (!r) {
        struct fy_err e;
        fy_fail(&e, FY_ERESOURCE, "no memory to run %s", program);
        cb(arg, &e, false, "", 0);
        return;
    }
    *r = (struct fyd_run){.d = d, .cb = cb, .arg = arg, .pidfd = -1, .out = -1};
    int pipefd[2] = {-1, -1};
    char path[PATH_MAX];
    struct fyd_spawn s = {
        .path = fyd_program(d, program, path), .argv = argv, .nfds = nfds, .log_fd = -1, .die_with_us = true};
    memcpy(s.fds, fds, sizeof *fds * (size_t)nfds);
    pid_t pid;
    int rc = pipe2(pipefd, O_CLOEXEC);
    if (rc < 0)
        fy_fail_errno(&r->err, FY_ERESOURCE, errno, "cannot run %s", program);
    s.out_fd = pipefd[1];
    if (rc == 0)
        rc = fyd_spawn(&s, &pid, &r->pidfd, &r->err);
    fy_close(&pipefd[1]);
    r->out = pipefd[0];
    if (rc == 0) {
        fcntl(r->out, F_SETFL, O_NONBLOCK);
        r->pid_watch = fy_watch_fd(d->loop, r->pidfd, FY_READ, on_end, r, &r->err);
        r->out_watch = fy_watch_fd(d->loop, r->out, FY_READ, on_out, r, &r->err);
        r->timer = fy_timer_new(d->loop, on_timer, r, &r->err);
        if (r->timer)
            fy_timer_arm(r->timer, timeout_ms);
        if (r->pid_watch)
            return;
    }
    fy_loop_post(d->loop, failed_later, r, NULL);
}
