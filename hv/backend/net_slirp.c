// SPDX-License-Identifier: Apache-2.0
#include "hv/backend/net_slirp.h"

#include <arpa/inet.h>
#include <errno.h>
#include <slirp/libslirp.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/clock.h"
#include "hv/base/log.h"

#define MTU 1500u

struct timer {
    struct timer *next;
    SlirpTimerCb cb;
    void *arg;
    int64_t due_ms; /* INT64_MAX: not armed */
};

struct fy_slirp {
    Slirp *stack;
    fy_slirp_frame_cb frame;
    void *arg;
    struct timer *timers;
    /* while descriptors are filled in or looked at */
    struct pollfd *fds;
    const struct pollfd *said;
    unsigned count, room;
};

static ssize_t on_send(const void *buf, size_t len, void *arg)
{
    struct fy_slirp *s = arg;
    s->frame(s->arg, buf, len);
    return (ssize_t)len;
}

static void on_error(const char *msg, void *arg)
{
    (void)arg;
    fy_debug("the guest's network: %s", msg);
}

static int64_t on_clock(void *arg)
{
    (void)arg;
    return (int64_t)fy_now_ns();
}

static void *on_timer_new(SlirpTimerCb cb, void *cb_arg, void *arg)
{
    struct fy_slirp *s = arg;
    struct timer *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    *t = (struct timer){.next = s->timers, .cb = cb, .arg = cb_arg, .due_ms = INT64_MAX};
    s->timers = t;
    return t;
}

static void on_timer_free(void *timer, void *arg)
{
    struct fy_slirp *s = arg;
    for (struct timer **p = &s->timers; *p; p = &(*p)->next)
        if (*p == timer) {
            *p = (*p)->next;
            break;
        }
    free(timer);
}

static void on_timer_mod(void *timer, int64_t due_ms, void *arg)
{
    (void)arg;
    if (timer)
        ((struct timer *)timer)->due_ms = due_ms;
}

static void on_poll_fd(int fd, void *arg)
{
    (void)fd;
    (void)arg;
}

static void on_notify(void *arg)
{
    (void)arg; /* descriptors are asked for anew before each poll */
}

struct fy_slirp *fy_slirp_new(uint32_t mtu, fy_slirp_frame_cb frame, void *arg, struct fy_err *e)
{
    static const SlirpCb calls = {
        .send_packet = on_send,
        .guest_error = on_error,
        .clock_get_ns = on_clock,
        .timer_new = on_timer_new,
        .timer_free = on_timer_free,
        .timer_mod = on_timer_mod,
        .register_poll_fd = on_poll_fd,
        .unregister_poll_fd = on_poll_fd,
        .notify = on_notify,
    };
    struct fy_slirp *s = calloc(1, sizeof *s);
    SlirpConfig c = {.version = 1, .in_enabled = true};
    c.vnetwork.s_addr = htonl(0x0a000200);
    c.vnetmask.s_addr = htonl(0xffffff00);
    c.vhost.s_addr = htonl(0x0a000202);
    c.vnameserver.s_addr = htonl(0x0a000203);
    c.vdhcp_start.s_addr = htonl(0x0a00020f);
    c.if_mtu = c.if_mru = mtu ? mtu : MTU;
    if (s) {
        s->frame = frame;
        s->arg = arg;
        s->stack = slirp_new(&c, &calls, s);
    }
    if (!s || !s->stack) {
        free(s);
        fy_fail(e, FY_ERESOURCE, "cannot make a user network");
        return NULL;
    }
    return s;
}

void fy_slirp_free(struct fy_slirp *s)
{
    if (!s)
        return;
    slirp_cleanup(s->stack);
    for (struct timer *t = s->timers, *next; t; t = next) {
        next = t->next;
        free(t);
    }
    free(s);
}

void fy_slirp_input(struct fy_slirp *s, const uint8_t *frame, size_t len)
{
    slirp_input(s->stack, frame, (int)len);
}

int fy_slirp_forward(struct fy_slirp *s, const Ferry__NicForward *f, struct fy_err *e)
{
    struct in_addr host = {.s_addr = htonl(INADDR_LOOPBACK)};
    struct in_addr guest = {.s_addr = 0};
    const char *what = f->udp ? "udp" : "tcp";
    if ((*f->host_address && inet_pton(AF_INET, f->host_address, &host) != 1) ||
        (*f->guest_address && inet_pton(AF_INET, f->guest_address, &guest) != 1) || !f->host_port ||
        f->host_port > 65535 || !f->guest_port || f->guest_port > 65535)
        return fy_fail(e, FY_EUSAGE, "forward %s:%s:%u:%u is none", what, f->host_address, f->host_port,
                       f->guest_port);
    if (slirp_add_hostfwd(s->stack, f->udp, host, (int)f->host_port, guest, (int)f->guest_port) == 0)
        return 0;
    int err = errno;
    return fy_fail_errno(e, err == EADDRINUSE ? FY_EEXISTS : FY_ERESOURCE, err,
                         "%s port %u of %s cannot be forwarded", what, f->host_port,
                         *f->host_address ? f->host_address : "127.0.0.1");
}

static int add_poll(int fd, int events, void *arg)
{
    struct fy_slirp *s = arg;
    if (s->count == s->room)
        return -1;
    short want = 0;
    want |= events & SLIRP_POLL_IN ? POLLIN : 0;
    want |= events & SLIRP_POLL_OUT ? POLLOUT : 0;
    want |= events & SLIRP_POLL_PRI ? POLLPRI : 0;
    s->fds[s->count] = (struct pollfd){.fd = fd, .events = want};
    return (int)s->count++;
}

static int get_events(int i, void *arg)
{
    const struct fy_slirp *s = arg;
    if (i < 0 || (unsigned)i >= s->count)
        return 0;
    short got = s->said[i].revents;
    return (got & POLLIN ? SLIRP_POLL_IN : 0) | (got & POLLOUT ? SLIRP_POLL_OUT : 0) |
           (got & POLLPRI ? SLIRP_POLL_PRI : 0) | (got & POLLERR ? SLIRP_POLL_ERR : 0) |
           (got & POLLHUP ? SLIRP_POLL_HUP : 0);
}

unsigned fy_slirp_fill(struct fy_slirp *s, struct pollfd *fds, unsigned room, int *timeout_ms)
{
    uint32_t ms = *timeout_ms < 0 ? UINT32_MAX : (uint32_t)*timeout_ms;
    int64_t now = on_clock(s) / 1000000;
    s->fds = fds;
    s->room = room;
    s->count = 0;
    slirp_pollfds_fill(s->stack, &ms, add_poll, s);
    for (const struct timer *t = s->timers; t; t = t->next)
        if (t->due_ms != INT64_MAX && (t->due_ms <= now || t->due_ms - now < ms))
            ms = t->due_ms <= now ? 0 : (uint32_t)(t->due_ms - now);
    *timeout_ms = ms > INT32_MAX ? -1 : (int)ms;
    return s->count;
}

void fy_slirp_serve(struct fy_slirp *s, const struct pollfd *fds, unsigned n, bool poll_failed)
{
    s->said = fds;
    s->count = n;
    slirp_pollfds_poll(s->stack, poll_failed, get_events, s);
    int64_t now = on_clock(s) / 1000000;
    for (struct timer *t = s->timers, *next; t; t = next) {
        next = t->next;
        if (t->due_ms <= now) {
            t->due_ms = INT64_MAX;
            t->cb(t->arg);
        }
    }
}
