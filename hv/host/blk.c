// SPDX-License-Identifier: Apache-2.0
#include "hv/host/blk.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/define/nbd_uri.h"
#include "hv/host/disks.h"
#include "hv/host/guests.h"
#include "hv/host/qcow2.h"
#include "hv/host/spawn.h"
#include "proto/blk.pb-c.h"

#define CALL_MS 5000
#define ASK_MS 15000
#define AGAIN_MS 100u
#define AGAIN_MAX_MS 5000u
#define STEADY_NS 10000000000ull

struct fyd_blk {
    struct fyd_blk *next;
    struct fyd *d;
    struct fyd_guest *g; /* NULL: it only awaits its process's end */
    unsigned index;
    bool incoming;
    Ferry__Disk *disk; /* owned */
    int pidfd, control;
    struct fy_watch *pid_watch, *control_watch;
};

bool fyd_disk_is_nbd(const Ferry__Disk *k)
{
    return fy_nbd_uri_is(k->source);
}

bool fyd_disk_served(const Ferry__Disk *k)
{
    return fyd_disk_is_nbd(k) || !strcmp(k->format, "qcow2");
}

const char *fyd_qemu_nbd(void)
{
    static const char *const places[] = {"/usr/bin/qemu-nbd", "/usr/local/bin/qemu-nbd"};
    for (size_t i = 0; i < FY_ARRAY_LEN(places); i++)
        if (access(places[i], X_OK) == 0)
            return places[i];
    return NULL;
}

static bool peer_may(const struct fyd *d, const Ferry__Disk *k)
{
    for (unsigned i = 0; i < d->disk_folder_count; i++)
        if (fy_nbd_uri_below(k->source, d->disk_folders[i]))
            return true;
    return false;
}

int fyd_blk_may(const struct fyd *d, const Ferry__Disk *k, bool incoming, struct fy_err *e)
{
    static struct fy_nbd_uri u;
    if (!fyd_disk_is_nbd(k))
        return fyd_qemu_nbd()
                   ? 0
                   : fy_fail(e, FY_EUNSUPPORTED,
                             "disk %.20s: qcow2 images need qemu-nbd here, which is in Debian's package "
                             "qemu-utils",
                             k->name);
    if (strcmp(k->format, "qcow2") == 0)
        return fy_fail(e, FY_EUSAGE, "disk %.20s: what an NBD server exports is raw", k->name);
    if (fy_nbd_uri_parse(k->source, &u, e) < 0)
        return fy_fail_prefix(e, "disk %.20s", k->name);
    if (incoming && *u.host && !peer_may(d, k))
        return fy_fail(
            e, FY_EREFUSED,
            "disk %.20s: %s is at no server here that incoming guests' disks may be at (see ferryd --disks "
            "nbd://HOST)",
            k->name, k->source);
    return 0;
}

/* --- what a new disk has */

struct measure {
    struct fyd *d;
    Ferry__Disk **disks;
    size_t count, at;
    void (*cb)(void *arg, const struct fy_err *err);
    void *arg;
};

static void measure_next(struct measure *m);

static void measure_over(struct measure *m, const struct fy_err *err)
{
    m->cb(m->arg, err);
    free(m);
}

static void describe(const Ferry__Disk *k, const struct fy_nbd_uri *u, char *name, size_t room,
                     Ferry__BlkRequest *q)
{
    ferry__blk_request__init(q);
    snprintf(name, room, "disk %.20s%s(%.120s)", k->name, *k->name ? " " : "", k->source);
    q->name = name;
    q->read_only = k->read_only;
    q->hold_s = k->hold_s;
    if (!u)
        return;
    q->host = (char *)(uintptr_t)u->host;
    q->port = (char *)(uintptr_t)u->port;
    q->export_name = (char *)(uintptr_t)u->export_name;
}

static void asked(void *arg, const struct fy_err *err, bool clean, const char *out, size_t len)
{
    struct measure *m = arg;
    Ferry__Disk *k = m->disks[m->at];
    struct fy_err e;
    char *end;
    (void)len;
    unsigned long long n = strtoull(out, &end, 10);
    if (!err && clean && n && *end == '\n') {
        k->bytes = n;
        m->at++;
        measure_next(m);
        return;
    }
    int code = out[0] == '!' ? (int)strtol(out + 1, &end, 10) : FY_EFAIL;
    if (err)
        fy_fail(&e, err->code, "disk %s: %.900s", k->source, err->text);
    else if (out[0] == '!' && code > 0 && code <= FY_ECRASHED && *end == ' ')
        fy_fail(&e, code, "disk %s: %.*s", k->source, (int)FY_MIN(strcspn(end + 1, "\n"), (size_t)800),
                end + 1);
    else
        fy_fail(&e, FY_EFAIL, "disk %s: ferry-blk has found nothing out", k->source);
    measure_over(m, &e);
}

static int ask_server(struct measure *m, const Ferry__Disk *k, struct fy_err *e)
{
    static const char *const argv[] = {"ferry-blk", "--ask", NULL};
    static struct fy_nbd_uri u;
    Ferry__BlkRequest q;
    char name[256];
    int fds[2] = {-1, -1}, nfds = 1;
    if (fy_nbd_uri_parse(k->source, &u, e) < 0)
        return -1;
    if (!*u.host) {
        fds[1] = fyd_disk_connect(m->d, k->name, u.socket, false, e);
        if (fds[1] < 0)
            return fy_fail_prefix(e, "disk %s", k->source);
        nfds = 2;
    }
    describe(k, &u, name, sizeof name, &q);
    size_t len = ferry__blk_request__get_packed_size(&q);
    uint8_t *buf = malloc(len);
    fds[0] = buf ? memfd_create("ferry-ask", MFD_CLOEXEC) : -1;
    int r = fds[0] >= 0 && ferry__blk_request__pack(&q, buf) == len ? fy_pwrite_all(fds[0], buf, len, 0) : -1;
    free(buf);
    if (r == 0)
        fyd_run_program(m->d, "ferry-blk", argv, fds, nfds, ASK_MS, asked, m);
    else
        fy_fail(e, FY_ERESOURCE, "no memory to ask a disk's server");
    fy_close(&fds[0]);
    fy_close(&fds[1]);
    return r;
}

static int look_into(int fd, const Ferry__Disk *k, uint64_t *bytes, struct fy_err *e)
{
    uint8_t h[FYD_QCOW2_HEADER];
    ssize_t n = pread(fd, h, sizeof h, 0);
    if (n < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "disk %s", k->source);
    return fyd_qcow2_bytes(h, (size_t)n, bytes, e) < 0 ? fy_fail_prefix(e, "disk %s", k->source) : 0;
}

static void measure_next(struct measure *m)
{
    struct fy_err e;
    for (; m->at < m->count; m->at++) {
        Ferry__Disk *k = m->disks[m->at];
        int r = 0;
        if (!fyd_disk_served(k))
            continue;
        if ((r = fyd_blk_may(m->d, k, false, &e)) == 0 && !fyd_disk_is_nbd(k)) {
            int fd = fyd_disk_open(m->d, k, false, &e);
            r = fd < 0 ? -1 : look_into(fd, k, &k->bytes, &e);
            fy_close(&fd);
        } else if (r == 0 && (r = ask_server(m, k, &e)) == 0) {
            return;
        }
        if (r < 0) {
            measure_over(m, &e);
            return;
        }
    }
    measure_over(m, NULL);
}

void fyd_blk_measure(struct fyd *d, Ferry__Disk **disks, size_t count,
                     void (*cb)(void *arg, const struct fy_err *err), void *arg)
{
    struct fy_err e;
    struct measure *m = calloc(1, sizeof *m);
    if (!m) {
        fy_fail(&e, FY_ERESOURCE, "no memory to ask a disk's server");
        cb(arg, &e);
        return;
    }
    *m = (struct measure){.d = d, .disks = disks, .count = count, .cb = cb, .arg = arg};
    measure_next(m);
}

/* --- a guest's ferry-blks */

static void free_unlisted(struct fyd_blk *b)
{
    fy_watch_free(b->pid_watch);
    fy_watch_free(b->control_watch);
    fy_close(&b->pidfd);
    fy_close(&b->control);
    if (b->disk)
        ferry__disk__free_unpacked(b->disk, NULL);
    free(b);
}

static void free_blk(struct fyd_blk *b)
{
    struct fyd_blk **p = &b->d->blks;
    while (*p != b)
        p = &(*p)->next;
    *p = b->next;
    free_unlisted(b);
}

static void on_end(int fd, unsigned ready, void *arg)
{
    struct fyd_blk *b = arg;
    char how[96];
    bool clean;
    (void)ready;
    if (!fyd_reap(fd, how, sizeof how, &clean))
        return;
    if (b->g && !clean)
        fy_warn("guest %s: the ferry-blk of disk%u %s", b->g->name, b->index, how);
    free_blk(b);
}

/* "": the server is there again. */
static void warn(struct fyd_blk *b, const char *text)
{
    char device[16], words[256];
    snprintf(device, sizeof device, "disk%u", b->index);
    snprintf(words, sizeof words, *text ? "its server is gone: %.180s" : "%s", text);
    fyd_guest_warn_of(b->g, device, words);
}

static int say(struct fyd_blk *b, const Ferry__BlkRequest *r, const int *fds, int nfds, struct fy_err *e)
{
    size_t len = ferry__blk_request__get_packed_size(r);
    uint8_t *buf = len <= FY_MSG_MAX ? malloc(len ? len : 1) : NULL;
    if (!buf)
        return fy_fail(e, FY_ERESOURCE, "no memory for a disk's description");
    ferry__blk_request__pack(r, buf);
    int rc = fy_msg_send(b->control, buf, len, fds, nfds, e);
    free(buf);
    return rc < 0 ? -1 : 0;
}

static int connect_image(struct fyd_blk *b, int fds[3], struct fy_err *e)
{
    char folder[PATH_MAX];
    uint64_t bytes;
    int fd = fyd_disk_open(b->d, b->disk, b->incoming, e);
    if (fd < 0)
        return -1;
    fyd_guest_path(b->g, "", folder);
    int r = look_into(fd, b->disk, &bytes, e);
    if (r == 0)
        r = fyd_qcow2_serve(b->d, folder, fd, b->disk->cache, b->disk->read_only, fds, e);
    fy_close(&fd);
    return r;
}

/* It asks for a connection: to what only this daemon can reach. */
static void make_connection(struct fyd_blk *b)
{
    static struct fy_nbd_uri u;
    Ferry__BlkRequest r = FERRY__BLK_REQUEST__INIT;
    struct fy_err e = {.code = 0};
    int fds[3] = {-1, -1, -1}, nfds = 0;
    r.connection = true;
    if (fyd_blk_may(b->d, b->disk, b->incoming, &e) == 0) {
        if (!fyd_disk_is_nbd(b->disk)) {
            nfds = connect_image(b, fds, &e) < 0 ? 0 : 3;
        } else if (fy_nbd_uri_parse(b->disk->source, &u, &e) == 0) {
            fds[0] = fyd_disk_connect(b->d, b->disk->name, u.socket, b->incoming, &e);
            nfds = fds[0] >= 0;
        }
    }
    r.error = nfds ? r.error : e.text;
    if (say(b, &r, fds, nfds, &e) < 0)
        fy_warn("guest %s: disk%u: %s", b->g->name, b->index, e.text);
    for (int i = 0; i < 3; i++)
        fy_close(&fds[i]);
}

static void on_control(int fd, unsigned ready, void *arg)
{
    struct fyd_blk *b = arg;
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    int none = 0;
    (void)ready;
    long n = fy_msg_recv(fd, buf, NULL, &none, &e);
    if (n == -2)
        return;
    Ferry__BlkEvent *ev = n > 0 ? ferry__blk_event__unpack(NULL, (size_t)n, buf) : NULL;
    if (!ev) {
        fy_watch_free(b->control_watch);
        b->control_watch = NULL;
        return; /* its pidfd says the rest */
    }
    if (b->g && ev->state)
        warn(b, ev->warning);
    if (b->g && ev->connect)
        make_connection(b);
    ferry__blk_event__free_unpacked(ev, NULL);
}

static Ferry__Disk *copy_disk(const Ferry__Disk *k)
{
    size_t len = ferry__disk__get_packed_size(k);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return NULL;
    ferry__disk__pack(k, buf);
    Ferry__Disk *copy = ferry__disk__unpack(NULL, len, buf);
    free(buf);
    return copy;
}

static int spawn(struct fyd_blk *b, int *sock, struct fy_err *e)
{
    static const char *const argv[] = {"ferry-blk", NULL};
    char program[PATH_MAX], path[PATH_MAX];
    int f[2] = {-1, -1}, c[2] = {-1, -1};
    pid_t pid;
    int rc = fy_msg_pair(f, e);
    if (rc == 0)
        rc = fy_msg_pair(c, e);
    fyd_guest_path(b->g, "log", path);
    int log = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
    if (rc == 0) {
        struct fyd_spawn s = {.path = fyd_program(b->d, "ferry-blk", program),
                              .argv = argv,
                              .fds = {f[1], c[1]},
                              .nfds = 2,
                              .log_fd = log,
                              .session = true};
        rc = fyd_spawn(&s, &pid, &b->pidfd, e);
    }
    fy_close(&log);
    fy_close(&f[1]);
    fy_close(&c[1]);
    b->control = c[0];
    *sock = f[0];
    if (rc < 0)
        return -1;
    fcntl(c[0], F_SETFL, fcntl(c[0], F_GETFL) | O_NONBLOCK);
    b->pid_watch = fy_watch_fd(b->d->loop, b->pidfd, FY_READ, on_end, b, e);
    b->control_watch = fy_watch_fd(b->d->loop, b->control, FY_READ, on_control, b, e);
    return b->pid_watch && b->control_watch ? 0 : -1;
}

int fyd_blk_start(struct fyd_guest *g, const Ferry__Disk *k, unsigned i, bool incoming, int *sock,
                  struct fy_err *e)
{
    static struct fy_nbd_uri u;
    Ferry__BlkRequest q;
    char name[256];
    *sock = -1;
    struct fyd_blk *b = calloc(1, sizeof *b);
    if (!b)
        return fy_fail(e, FY_ERESOURCE, "no memory for a disk");
    *b = (struct fyd_blk){
        .next = g->d->blks, .d = g->d, .g = g, .index = i, .incoming = incoming, .pidfd = -1, .control = -1};
    g->d->blks = b;
    int r = fyd_blk_may(g->d, k, incoming, e);
    if (r == 0 && fyd_disk_is_nbd(k))
        r = fy_nbd_uri_parse(k->source, &u, e);
    if (r == 0 && !(b->disk = copy_disk(k)))
        r = fy_fail(e, FY_ERESOURCE, "no memory for a disk");
    if (r == 0)
        r = spawn(b, sock, e);
    if (r == 0) {
        describe(k, fyd_disk_is_nbd(k) ? &u : NULL, name, sizeof name, &q);
        r = say(b, &q, NULL, 0, e);
    }
    if (r == 0)
        return 0;
    fy_close(sock);
    if (b->pidfd >= 0)
        fyd_kill(b->pidfd); /* its end frees it */
    if (b->pidfd < 0 || !b->pid_watch)
        free_blk(b);
    return -1;
}

/* --- one that has ended */

static void attached(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds)
{
    (void)r;
    (void)fds;
    (void)nfds;
    struct fyd_guest *g = arg;
    if (err)
        fy_warn("guest %s: another ferry-blk is refused: %s", g->name, err->text);
}

static void start_again(struct fyd_guest *g, unsigned i)
{
    Ferry__DiskRequest disk = FERRY__DISK_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    char id[16];
    struct fy_err e;
    int sock;
    if (!g->link || !g->machine || i >= g->machine->n_disks)
        return;
    if (fyd_blk_start(g, g->machine->disks[i], i, g->incoming, &sock, &e) < 0) {
        fy_warn("guest %s: disk%u: %s", g->name, i, e.text);
        return;
    }
    snprintf(id, sizeof id, "disk%u", i);
    disk.id = id;
    req.op_case = FERRY__REQUEST__OP_DISK;
    req.disk = &disk;
    fyd_hv_call(g->link, &req, &sock, 1, CALL_MS, attached, g);
    fy_close(&sock);
    fy_info("guest %s: %s has a new ferry-blk", g->name, id);
}

static void on_again(void *arg)
{
    struct fyd_guest *g = arg;
    uint32_t which = g->blk_again;
    g->blk_again = 0;
    for (unsigned i = 0; which >> i; i++)
        if (which >> i & 1)
            start_again(g, i);
}

void fyd_blk_status(struct fyd_guest *g, const Ferry__StatusReply *s)
{
    uint32_t was = g->blk_again;
    if (!g->machine || g->forget)
        return;
    for (size_t i = 0; i < s->n_disks && i < g->machine->n_disks && i < FYD_DISKS_MAX; i++)
        if (s->disks[i]->served && !s->disks[i]->process)
            g->blk_again |= 1u << i;
    if (was || !g->blk_again)
        return;
    if (!g->blk_timer)
        g->blk_timer = fy_timer_new(g->d->loop, on_again, g, NULL);
    uint64_t now = fy_now_ns();
    g->blk_again_ms =
        now - g->blk_again_ns > STEADY_NS ? AGAIN_MS : FY_MIN(2 * g->blk_again_ms, AGAIN_MAX_MS);
    g->blk_again_ns = now;
    if (g->blk_timer)
        fy_timer_arm(g->blk_timer, g->blk_again_ms);
}

void fyd_blk_forget(struct fyd_guest *g)
{
    for (struct fyd_blk *b = g->d->blks; b; b = b->next)
        if (b->g == g)
            b->g = NULL;
    fy_watch_free(g->blk_timer);
    g->blk_timer = NULL;
    g->blk_again = 0;
}

void fyd_blks_free_all(struct fyd *d)
{
    for (struct fyd_blk *b = d->blks, *next; b; b = next) {
        next = b->next;
        free_unlisted(b);
    }
    d->blks = NULL;
    fyd_qcow2_free_all(d);
}
