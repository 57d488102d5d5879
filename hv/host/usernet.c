// SPDX-License-Identifier: Apache-2.0
/* User networks: a ferry-net for each such card. It dies with its guest, and lives on without this daemon;
 * when it dies alone the guest's hypervisor says so (its link is down), and it is started anew. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/host/guests.h"
#include "hv/host/net.h"
#include "hv/host/spawn.h"
#include "proto/net.pb-c.h"

#define CALL_MS 5000
#define AGAIN_MS 50u
#define AGAIN_MAX_MS 5000u
#define STEADY_NS 10000000000ull /* what has lived that long has earned a quick new start */
#define FRAME_BUFFER (4u << 20)

struct fyd_usernet {
    struct fyd_usernet *next;
    struct fyd_guest *g; /* NULL: it only awaits its process's end */
    unsigned index;
    int pidfd, control;
    struct fy_watch *pid_watch, *control_watch, *timer;
    struct fyd *d;
    uint64_t started_ns;
    unsigned again_ms;
    bool attaching;
};

static void free_process(struct fyd_usernet *u)
{
    fy_watch_free(u->pid_watch);
    fy_watch_free(u->control_watch);
    u->pid_watch = u->control_watch = NULL;
    fy_close(&u->pidfd);
    fy_close(&u->control);
}

static void free_usernet(struct fyd_usernet *u)
{
    struct fyd_usernet **p = &u->d->usernets;
    while (*p != u)
        p = &(*p)->next;
    *p = u->next;
    free_process(u);
    fy_watch_free(u->timer);
    free(u);
}

static void on_end(int fd, unsigned ready, void *arg)
{
    struct fyd_usernet *u = arg;
    char how[96];
    bool clean;
    (void)ready;
    if (!fyd_reap(fd, how, sizeof how, &clean))
        return;
    if (u->g && !clean)
        fy_warn("guest %s: the network of net%u %s", u->g->name, u->index, how);
    free_process(u);
    if (!u->g)
        free_usernet(u);
}

static struct fyd_usernet *usernet_of(struct fyd_guest *g, unsigned i)
{
    struct fyd_usernet *u = g->usernet[i];
    if (u)
        return u;
    u = calloc(1, sizeof *u);
    if (!u)
        return NULL;
    *u = (struct fyd_usernet){.next = g->d->usernets,
                              .g = g,
                              .d = g->d,
                              .index = i,
                              .pidfd = -1,
                              .control = -1,
                              .again_ms = AGAIN_MS};
    g->d->usernets = u;
    g->usernet[i] = u;
    return u;
}

static void on_control(int fd, unsigned ready, void *arg)
{
    struct fyd_usernet *u = arg;
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    int none = 0;
    (void)ready;
    long n = fy_msg_recv(fd, buf, NULL, &none, &e);
    if (n == -2)
        return;
    if (n <= 0) {
        fy_watch_free(u->control_watch);
        u->control_watch = NULL;
        return; /* its pidfd says the rest */
    }
    Ferry__NetEvent *ev = ferry__net_event__unpack(NULL, (size_t)n, buf);
    if (ev && u->g) {
        char device[16];
        snprintf(device, sizeof device, "net%u", u->index);
        fyd_guest_warn_of(u->g, device, ev->warning);
    }
    if (ev)
        ferry__net_event__free_unpacked(ev, NULL);
}

static int say(struct fyd_usernet *u, const Ferry__Nic *nic, bool forward, struct fy_err *e)
{
    Ferry__NetRequest r = FERRY__NET_REQUEST__INIT;
    r.nic = (Ferry__Nic *)(uintptr_t)nic;
    r.forward = forward;
    size_t len = ferry__net_request__get_packed_size(&r);
    uint8_t *buf = len <= FY_MSG_MAX ? malloc(len) : NULL;
    if (!buf)
        return fy_fail(e, FY_ERESOURCE, "no memory for a network's description");
    ferry__net_request__pack(&r, buf);
    int rc = fy_msg_send(u->control, buf, len, NULL, 0, e);
    free(buf);
    return rc < 0 ? -1 : 0;
}

static int frame_pair(int sv[2], struct fy_err *e)
{
    int size = FRAME_BUFFER;
    if (fy_msg_pair(sv, e) < 0)
        return -1;
    for (int i = 0; i < 2; i++) {
        /* Beyond the system's limit where that is allowed; else as far as it goes. */
        if (setsockopt(sv[i], SOL_SOCKET, SO_SNDBUFFORCE, &size, sizeof size) < 0)
            setsockopt(sv[i], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
    }
    return 0;
}

static int spawn(struct fyd_usernet *u, const Ferry__Nic *nic, bool forward, int *frames, struct fy_err *e)
{
    static const char *const argv[] = {"ferry-net", NULL};
    struct fyd_guest *g = u->g;
    char program[PATH_MAX], path[PATH_MAX];
    int f[2] = {-1, -1}, c[2] = {-1, -1};
    pid_t pid;
    int rc = frame_pair(f, e);
    if (rc == 0)
        rc = fy_msg_pair(c, e);
    fyd_guest_path(g, "log", path);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (rc == 0) {
        struct fyd_spawn s = {.path = fyd_program(g->d, "ferry-net", program),
                              .argv = argv,
                              .fds = {f[1], c[1]},
                              .nfds = 2,
                              .log_fd = log,
                              .session = true};
        rc = fyd_spawn(&s, &pid, &u->pidfd, e);
    }
    fy_close(&log);
    fy_close(&f[1]);
    fy_close(&c[1]);
    if (rc == 0) {
        u->control = c[0];
        fcntl(c[0], F_SETFL, fcntl(c[0], F_GETFL) | O_NONBLOCK);
        u->pid_watch = fy_watch_fd(g->d->loop, u->pidfd, FY_READ, on_end, u, e);
        u->control_watch = fy_watch_fd(g->d->loop, u->control, FY_READ, on_control, u, e);
        rc = u->pid_watch && u->control_watch ? say(u, nic, forward, e) : -1;
    } else {
        fy_close(&c[0]);
    }
    if (rc < 0) {
        fy_close(&f[0]);
        fyd_kill(u->pidfd);
        return -1;
    }
    u->started_ns = fy_now_ns();
    *frames = f[0];
    return 0;
}

int fyd_usernet_start(struct fyd_guest *g, const Ferry__Nic *nic, unsigned i, bool forward, int *frames,
                      struct fy_err *e)
{
    struct fyd_usernet *u = usernet_of(g, i);
    return u ? spawn(u, nic, forward, frames, e) : fy_fail(e, FY_ERESOURCE, "no memory for a network");
}

void fyd_usernet_forward(struct fyd_guest *g)
{
    struct fy_err e;
    for (unsigned i = 0; i < FYD_NICS_MAX; i++) {
        struct fyd_usernet *u = g->usernet[i];
        if (u && u->control >= 0 && say(u, NULL, true, &e) < 0)
            fy_warn("guest %s: forwards of net%u: %s", g->name, i, e.text);
    }
}

static void attached(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    if (err)
        fy_warn("guest %s: a new network is refused: %s", g->name, err->text);
}

/* What ended is to be there again. */
static void on_again(void *arg)
{
    struct fyd_usernet *u = arg;
    struct fyd_guest *g = u->g;
    struct fy_err e;
    int frames = -1;
    u->attaching = false;
    if (!g->link || !g->machine || u->index >= g->machine->n_nics)
        return;
    fyd_kill(u->pidfd);
    if (u->pidfd >= 0) {
        fy_timer_arm(u->timer, AGAIN_MS); /* it is told when its process is gone */
        u->attaching = true;
        return;
    }
    bool ours = g->state == FYD_G_RUNNING || g->state == FYD_G_PAUSED || g->state == FYD_G_HANDING;
    if (spawn(u, g->machine->nics[u->index], ours, &frames, &e) < 0) {
        fy_warn("guest %s: net%u: %s", g->name, u->index, e.text);
        return;
    }
    char id[16];
    snprintf(id, sizeof id, "net%u", u->index);
    Ferry__NicRequest nic = FERRY__NIC_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    nic.id = id;
    nic.attach = true;
    req.op_case = FERRY__REQUEST__OP_NIC;
    req.nic = &nic;
    fyd_hv_call(g->link, &req, &frames, 1, CALL_MS, attached, g);
    fy_close(&frames);
    fy_info("guest %s: %s has a new network", g->name, id);
}

static void again(struct fyd_guest *g, unsigned i)
{
    struct fyd_usernet *u = usernet_of(g, i);
    if (!u || u->attaching)
        return;
    if (!u->timer)
        u->timer = fy_timer_new(g->d->loop, on_again, u, NULL);
    if (!u->timer)
        return;
    u->again_ms = fy_now_ns() - u->started_ns > STEADY_NS ? AGAIN_MS : u->again_ms * 2;
    if (u->again_ms > AGAIN_MAX_MS)
        u->again_ms = AGAIN_MAX_MS;
    u->attaching = true;
    fy_timer_arm(u->timer, u->again_ms);
}

void fyd_usernet_status(struct fyd_guest *g, const Ferry__StatusReply *s)
{
    if (!g->machine || g->forget)
        return;
    for (size_t i = 0; i < s->n_nics && i < g->machine->n_nics && i < FYD_NICS_MAX; i++)
        if (!s->nics[i]->link && fyd_nic_is_user(g->machine->nics[i]))
            again(g, (unsigned)i);
}

void fyd_usernet_forget(struct fyd_guest *g)
{
    for (unsigned i = 0; i < FYD_NICS_MAX; i++) {
        struct fyd_usernet *u = g->usernet[i];
        if (!u)
            continue;
        g->usernet[i] = NULL;
        u->g = NULL;
        fy_watch_free(u->timer);
        u->timer = NULL;
        if (u->pidfd < 0)
            free_usernet(u);
    }
}

void fyd_usernets_free_all(struct fyd *d)
{
    for (struct fyd_usernet *u = d->usernets, *next; u; u = next) {
        next = u->next;
        free_process(u);
        fy_watch_free(u->timer);
        free(u);
    }
    d->usernets = NULL;
}
