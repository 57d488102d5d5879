// SPDX-License-Identifier: Apache-2.0
/* Starting a guest's hypervisor, and finding one again after the daemon's restart. */
#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/hex.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/host/blk.h"
#include "hv/host/firmware.h"
#include "hv/host/guests.h"
#include "hv/host/net.h"
#include "hv/host/runlog.h"
#include "hv/host/spawn.h"

#define CALL_MS 10000

/* Descriptors for ferry-hv, each with the option that names it. */
struct kit {
    int fds[FYD_SPAWN_FDS];
    bool owned[FYD_SPAWN_FDS];
    const char *options[FYD_SPAWN_FDS];
    char prefix[FYD_SPAWN_FDS][24]; /* of the number */
    char numbers[FYD_SPAWN_FDS][40];
    const char *argv[2 * FYD_SPAWN_FDS + 8];
    int nfds;
    int argc;
};

static int kit_add(struct kit *k, const char *option, int fd, bool owned)
{
    k->fds[k->nfds] = fd;
    k->owned[k->nfds] = owned;
    k->options[k->nfds] = option;
    k->nfds++;
    return fd;
}

static void kit_free(struct kit *k)
{
    for (int i = 0; i < k->nfds; i++)
        if (k->owned[i])
            fy_close(&k->fds[i]);
}

static void kit_argv(struct kit *k, const struct fyd_launch *l)
{
    k->argv[k->argc++] = "ferry-hv";
    for (int i = 0; i < k->nfds; i++) {
        size_t n = strlen(k->prefix[i]);
        memcpy(k->numbers[i], k->prefix[i], n);
        snprintf(k->numbers[i] + n, sizeof k->numbers[i] - n, "%d", 3 + i);
        k->argv[k->argc++] = k->options[i];
        k->argv[k->argc++] = k->numbers[i];
    }
    if (l->incoming)
        k->argv[k->argc++] = "--incoming";
    if (l->paused)
        k->argv[k->argc++] = "--paused";
    k->argv[k->argc] = NULL;
}

static int make_memory(const Ferry__Machine *m, struct kit *k, struct fy_err *e)
{
    char name[96];
    char path[64];
    unsigned flags = MFD_CLOEXEC | MFD_ALLOW_SEALING | (m->hugepages ? MFD_HUGETLB | MFD_HUGE_2MB : 0);
    snprintf(name, sizeof name, "ferry:%s", m->name);
    int fd = kit_add(k, "--mem-fd", memfd_create(name, flags), true);
    if (fd < 0 || ftruncate(fd, (off_t)fyd_memory_file_bytes(m)) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make %llu MiB of guest memory%s",
                             (unsigned long long)(m->memory_bytes >> 20),
                             m->hugepages ? " from 2 MiB pages" : "");
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    if (kit_add(k, "--mem-ro-fd", open(path, O_RDONLY | O_CLOEXEC), true) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open guest memory for reading");
    return 0;
}

int fyd_machine_memfd(const Ferry__Machine *m, struct fy_err *e)
{
    size_t len = ferry__machine__get_packed_size(m);
    uint8_t *buf = malloc(len ? len : 1);
    int fd = buf ? memfd_create("ferry-machine", MFD_CLOEXEC) : -1;
    if (fd < 0) {
        free(buf);
        return fy_fail(e, FY_ERESOURCE, "no memory for a machine description");
    }
    ferry__machine__pack(m, buf);
    if (fy_pwrite_all(fd, buf, len, 0) < 0) {
        fy_close(&fd);
        fy_fail(e, FY_ERESOURCE, "no memory for a machine description");
    }
    free(buf);
    return fd;
}

/* What the cards are joined to. A guest that comes here takes no forward: they are opened when it is ours,
 * since until then they may be the other side's. */
static int join_nics(struct fyd_guest *g, const struct fyd_launch *l, struct kit *k, struct fy_err *e)
{
    for (size_t i = 0; i < l->machine->n_nics && i < FYD_NICS_MAX; i++) {
        const Ferry__Nic *nic = l->machine->nics[i];
        int fds[FYD_NIC_QUEUES] = {-1}, n = 1;
        if (fyd_nic_is_user(nic)) {
            if (fyd_usernet_start(g, nic, (unsigned)i, !l->incoming, fds, e) < 0)
                return fy_fail_prefix(e, "net%zu", i);
        } else {
            n = fyd_nic_open(nic, (unsigned)i, fds, e);
        }
        for (int q = 0; q < n; q++) {
            if (k->nfds == FYD_SPAWN_FDS) {
                fy_close(&fds[q]);
                n = -1;
                fy_fail(e, FY_ERESOURCE, "net%zu: too many queues for one guest", i);
                continue;
            }
            snprintf(k->prefix[k->nfds], sizeof k->prefix[0], "%u.%u=", (unsigned)i, (unsigned)q);
            kit_add(k, "--nic-fd", fds[q], true);
        }
        if (n < 0)
            return -1;
    }
    return 0;
}

static int add_disks(struct fyd_guest *g, const struct fyd_launch *l, struct kit *k, struct fy_err *e)
{
    for (size_t i = 0; i < l->machine->n_disks; i++) {
        const Ferry__Disk *disk = l->machine->disks[i];
        int sock;
        if (k->nfds + 8 > FYD_SPAWN_FDS)
            return fy_fail(e, FY_ERESOURCE, "too many disks and queues for one guest");
        if (!fyd_disk_served(disk)) {
            kit_add(k, "--disk-fd", l->disk_fds[i], false);
            continue;
        }
        if (fyd_blk_start(g, disk, (unsigned)i, false, &sock, e) < 0)
            return -1;
        kit_add(k, "--disk-fd", sock, true);
    }
    return 0;
}

static int make_kit(struct fyd_guest *g, const struct fyd_launch *l, struct kit *k, int *log_fd,
                    struct fy_err *e)
{
    char path[PATH_MAX];
    fyd_guest_path(g, "", path);
    if (mkdir(path, 0700) < 0 && errno != EEXIST)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make folder %s", path);
    fyd_guest_path(g, "log", path);
    *log_fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (*log_fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open %s", path);
    if (kit_add(k, "--config-fd", fyd_machine_memfd(l->machine, e), true) < 0)
        return -1;
    fyd_guest_path(g, "control.sock", path);
    if (kit_add(k, "--control-fd", fy_msg_listen(path, 0600, e), true) < 0)
        return -1;
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (kvm < 0 && !strcmp(l->machine->engine, "kvm"))
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno,
                             "cannot open /dev/kvm (is the kvm module loaded, and may this user open it?)");
    if (kvm >= 0)
        kit_add(k, "--kvm-fd", kvm, true);
    if (make_memory(l->machine, k, e) < 0)
        return -1;
    fyd_runlog_trim(g->d);
    kit_add(k, "--runlog-fd", g->d->runlog, false);
    for (int i = 0; i < 2; i++) {
        fyd_guest_path(g, i ? "console.log.1" : "console.log.0", path);
        if (kit_add(k, "--console-log-fd", open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600),
                    true) < 0)
            return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot open %s", path);
    }
    if (l->kernel_fd >= 0)
        kit_add(k, "--kernel-fd", l->kernel_fd, false);
    if (l->initrd_fd >= 0)
        kit_add(k, "--initrd-fd", l->initrd_fd, false);
    if (join_nics(g, l, k, e) < 0)
        return -1;
    if (l->disk_fds && add_disks(g, l, k, e) < 0)
        return -1;
    if (l->firmware_fd >= 0)
        kit_add(k, "--firmware-fd", l->firmware_fd, false);
    if (l->machine->firmware && l->machine->firmware->nvram_bytes &&
        kit_add(k, "--nvram-fd", fyd_nvram_open(g->d, l->machine, l->incoming, e), true) < 0)
        return -1;
    if (l->machine->vsock_cid && kit_add(k, "--vsock-fd", fyd_vsock_listen(g, e), true) < 0)
        return -1;
    int pair[2];
    if (fy_msg_pair(pair, e) < 0)
        return -1;
    kit_add(k, "--ready-fd", pair[1], true);
    g->ready_sock = pair[0];
    return 0;
}

static void launch_over(struct fyd_guest *g, const struct fy_err *err)
{
    fyd_launch_cb cb = g->launched;
    void *arg = g->launch_arg;
    fy_watch_free(g->ready_watch);
    g->ready_watch = NULL;
    fy_close(&g->ready_sock);
    g->launched = NULL;
    if (cb)
        cb(arg, err);
}

static void launch_failed_later(struct fyd_guest *g)
{
    launch_over(g, &g->launch_err);
}

/* Give up: the callback comes when the process is gone. */
static void launch_fail(struct fyd_guest *g, const struct fy_err *err)
{
    if (!g->launch_err.code)
        g->launch_err = *err;
    if (g->pidfd >= 0)
        fyd_kill(g->pidfd);
    else
        fyd_guest_post(g, launch_failed_later);
}

static void on_process_end(int fd, unsigned ready, void *arg)
{
    (void)ready;
    struct fyd_guest *g = arg;
    char how[96];
    bool clean;
    if (!fyd_reap(fd, how, sizeof how, &clean))
        return;
    bool launching = g->launched != NULL;
    if (launching && !g->launch_err.code) {
        /* What it had to say may still be unread. */
        if (g->ready_sock >= 0)
            fyd_launch_read_ready(g);
        char path[PATH_MAX];
        fyd_guest_path(g, "log", path);
        if (!g->launch_err.code)
            fy_fail(&g->launch_err, FY_ECRASHED, "the hypervisor %s before it served its guest (see %s)", how,
                    path);
    }
    fyd_guest_process_ended(g, how);
    if (launching)
        launch_over(g, &g->launch_err);
}

static void on_event(void *arg, const Ferry__Event *ev)
{
    if (ev->vsock_id) {
        fyd_vsock_connect(arg, ev->vsock_port, ev->vsock_id);
        return;
    }
    if (ev->nics || ev->disks)
        fyd_guest_ask_status(arg);
    fyd_guest_hv_state(arg, ev->state, ev->report, ev->exit_status);
}

static void on_link_closed(void *arg)
{
    struct fyd_guest *g = arg;
    /* The process's end is told by its pidfd; a hypervisor that lives without its socket is of no use. */
    struct fyd_hv *link = g->link;
    g->link = NULL;
    fyd_hv_free(link);
    if (g->pidfd >= 0 && !g->end_timer)
        g->end_timer = fy_timer_new(g->d->loop, fyd_guest_relink, g, NULL);
    if (g->end_timer)
        fy_timer_arm(g->end_timer, 500);
}

/* greet: hello, describe, subscribe, status; the same after a launch and after a restart of the daemon. */
static void greet_status(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    if (err || r->op_case != FERRY__RESPONSE__OP_STATUS) {
        launch_fail(g, err ? err : &(struct fy_err){FY_ECORRUPT, "the hypervisor answers out of turn"});
        return;
    }
    fyd_guest_take_status(g, r->status);
    launch_over(g, NULL);
    if (g->forget)
        return;
    fyd_guest_hv_state(g, r->status->state, r->status->report, r->status->exit_status);
}

static void greet_subscribe(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    if (err) {
        launch_fail(g, err);
        return;
    }
    Ferry__StatusRequest st = FERRY__STATUS_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_STATUS;
    req.status = &st;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, greet_status, g);
}

static int keep_machine(struct fyd_guest *g, const Ferry__Machine *m)
{
    size_t len = ferry__machine__get_packed_size(m);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return -1;
    ferry__machine__pack(m, buf);
    Ferry__Machine *copy = ferry__machine__unpack(NULL, len, buf);
    char path[PATH_MAX];
    fyd_guest_path(g, "", path);
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct fy_err e;
    if (dir < 0 || fy_write_file_durable(dir, "machine.pb", buf, len, 0600, &e) < 0)
        fy_warn("guest %s: cannot keep its description in %s", g->name, path);
    fy_close(&dir);
    free(buf);
    if (!copy)
        return -1;
    if (g->machine)
        ferry__machine__free_unpacked(g->machine, NULL);
    g->machine = copy;
    return 0;
}

static void greet_describe(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    if (err || r->op_case != FERRY__RESPONSE__OP_DESCRIBE || !r->describe->machine ||
        keep_machine(g, r->describe->machine) < 0) {
        launch_fail(g, err ? err
                           : &(struct fy_err){FY_ECORRUPT, "the hypervisor does not describe its machine"});
        return;
    }
    Ferry__SubscribeRequest sub = FERRY__SUBSCRIBE_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_SUBSCRIBE;
    req.subscribe = &sub;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, greet_subscribe, g);
}

static int check_hello(struct fyd_guest *g, const Ferry__HelloReply *h, struct fy_err *e)
{
    if (h->uuid.len != FYD_ID_LEN || memcmp(h->uuid.data, g->uuid, FYD_ID_LEN) != 0 ||
        h->run_id.len != FYD_ID_LEN)
        return fy_fail(e, FY_ECORRUPT, "another guest's hypervisor answers at the control socket");
    if (!fyd_id_is_zero(g->run_id) && memcmp(g->run_id, h->run_id.data, FYD_ID_LEN) != 0)
        return fy_fail(e, FY_ECORRUPT, "another run of this guest answers at the control socket");
    memcpy(g->run_id, h->run_id.data, FYD_ID_LEN);
    if (g->pidfd >= 0)
        return 0;
    /* Found again: it answers after the pidfd is open, below, so the pidfd is its own. */
    g->pidfd = fyd_pidfd((pid_t)h->pid, 0, e);
    if (g->pidfd < 0)
        return -1;
    g->pid = (pid_t)h->pid;
    g->pid_watch = fy_watch_fd(g->d->loop, g->pidfd, FY_READ, on_process_end, g, e);
    return g->pid_watch ? 0 : -1;
}

static void greet_hello(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    struct fy_err e;
    if (!err && r->op_case != FERRY__RESPONSE__OP_HELLO) {
        fy_fail(&e, FY_ECORRUPT, "the hypervisor answers out of turn");
        err = &e;
    } else if (!err && check_hello(g, r->hello, &e) < 0) {
        err = &e;
    }
    if (err) {
        launch_fail(g, err);
        return;
    }
    Ferry__DescribeRequest desc = FERRY__DESCRIBE_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_DESCRIBE;
    req.describe = &desc;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, greet_describe, g);
}

static void greet(struct fyd_guest *g)
{
    struct fy_err e;
    int sock = fyd_guest_connect(g, &e);
    if (sock >= 0)
        g->link = fyd_hv_new(g->d->loop, sock, on_event, on_link_closed, g, &e);
    if (!g->link) {
        launch_fail(g, &e);
        return;
    }
    Ferry__HelloRequest hello = FERRY__HELLO_REQUEST__INIT;
    hello.client = (char *)(uintptr_t) "ferryd";
    Ferry__Request req = FERRY__REQUEST__INIT;
    req.op_case = FERRY__REQUEST__OP_HELLO;
    req.hello = &hello;
    fyd_hv_call(g->link, &req, NULL, 0, CALL_MS, greet_hello, g);
}

/* True when the word has come. */
bool fyd_launch_read_ready(struct fyd_guest *g)
{
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    long n = fy_msg_recv(g->ready_sock, buf, NULL, NULL, &e);
    if (n == -2)
        return false;
    fy_watch_free(g->ready_watch);
    g->ready_watch = NULL;
    fy_close(&g->ready_sock);
    Ferry__HvReady *r = n > 0 ? ferry__hv_ready__unpack(NULL, (size_t)n, buf) : NULL;
    if (!r)
        return true; /* it ended without a word: its pidfd says how */
    if (r->code)
        fy_fail(&g->launch_err, (int)r->code, "%s", r->text);
    g->prealloc_ns = r->prealloc_ns;
    fyd_copy(g->warning, sizeof g->warning, r->warning);
    ferry__hv_ready__free_unpacked(r, NULL);
    if (g->launch_err.code)
        launch_fail(g, &g->launch_err);
    else
        greet(g);
    return true;
}

static void on_ready(int fd, unsigned ready, void *arg)
{
    (void)fd;
    (void)ready;
    fyd_launch_read_ready(arg);
}

static int launch(struct fyd_guest *g, const struct fyd_launch *l, struct kit *k, struct fy_err *e)
{
    char program[PATH_MAX];
    int log_fd = -1;
    int rc = make_kit(g, l, k, &log_fd, e);
    if (rc == 0) {
        kit_argv(k, l);
        struct fyd_spawn s = {.path = fyd_program(g->d, "ferry-hv", program),
                              .argv = k->argv,
                              .nfds = k->nfds,
                              .log_fd = log_fd,
                              .session = true};
        memcpy(s.fds, k->fds, sizeof s.fds);
        rc = fyd_spawn(&s, &g->pid, &g->pidfd, e);
    }
    fy_close(&log_fd);
    if (rc < 0)
        return -1;
    fyd_limits_join(g);
    int flags = fcntl(g->ready_sock, F_GETFL);
    fcntl(g->ready_sock, F_SETFL, flags | O_NONBLOCK);
    g->pid_watch = fy_watch_fd(g->d->loop, g->pidfd, FY_READ, on_process_end, g, e);
    g->ready_watch = fy_watch_fd(g->d->loop, g->ready_sock, FY_READ, on_ready, g, e);
    return g->pid_watch && g->ready_watch ? 0 : -1;
}

void fyd_guest_launch(struct fyd_guest *g, const struct fyd_launch *l, fyd_launch_cb cb, void *arg)
{
    struct kit k = {0};
    struct fy_err e;
    g->launched = cb;
    g->launch_arg = arg;
    g->launch_err.code = 0;
    g->incoming = l->incoming;
    g->end_asked = g->ended_word = false;
    if (launch(g, l, &k, &e) < 0)
        launch_fail(g, &e);
    kit_free(&k);
}

void fyd_guest_find(struct fyd_guest *g, fyd_launch_cb cb, void *arg)
{
    g->launched = cb;
    g->launch_arg = arg;
    g->launch_err.code = 0;
    greet(g);
}
