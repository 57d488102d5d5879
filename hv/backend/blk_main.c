// SPDX-License-Identifier: Apache-2.0
/* ferry-blk: one disk of one guest, by NBD. Descriptor 3: ferry-hv (proto/blk.h); 4: ferryd
 * (proto/blk.proto). It lives as long as the guest holds its end of 3, also without ferryd. With --ask it
 * says on its output what a server has, and ends: descriptor 3 is the request then, 4 a connection, where
 * there is one. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/backend/blk_serve.h"
#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/sandbox/sandbox.h"
#include "proto/blk.pb-c.h"

#define HV_FD 3
#define CONTROL_FD 4
#define MS 1000000ull
#define CONNECT_NS (10000 * MS)
#define ASK_NS (8000 * MS)
#define RETRY_MS 100u
#define RETRY_MAX_MS 5000u
#define END_NS (10000 * MS) /* for a server of ours to end with its connection */

/* One try to connect, on a thread of its own: a resolver may take its time. */
struct attempt {
    struct fy_nbd_place place;
    struct fy_nbd *n;
    struct fy_err err;
    uint64_t until_ns;
    int event;
};

struct blk {
    Ferry__BlkRequest *request; /* owned */
    int control;
    struct fy_serve *serve;
    struct fy_nbd *n;
    struct attempt *attempt; /* under way */
    int event;               /* its end */
    int server, said;        /* a server that ferryd started for us: its pidfd, what it said; -1 */
    bool asked;              /* ferryd is to make a connection */
    bool wanted;             /* the disk is to be open */
    bool opening;            /* ferry-hv awaits OPENED */
    bool closing;            /* and CLOSED, for which a flush is under way */
    bool told_down;
    int flush_err;
    bool flushed;
    uint64_t bytes;
    bool read_only;
    uint64_t retry_ns; /* when to try again */
    unsigned retry_ms;
    uint64_t hold_until_ns; /* when requests begin to fail; UINT64_MAX: there is a connection */
    bool expired;
    bool ended;
};

/* --- what is said */

static void reply(struct blk *b, struct fy_blkw_reply *r)
{
    uint8_t buf[FY_BLKW_REPLY_MAX];
    size_t len = fy_blkw_put_reply(r, buf);
    if (send(HV_FD, buf, len, MSG_NOSIGNAL) < 0 && errno != EINTR)
        b->ended = true;
}

static void on_done(void *arg, uint32_t id, int err)
{
    struct fy_blkw_reply r = {.id = id, .kind = FY_BLKW_DONE, .error = err};
    reply(arg, &r);
}

static void answer(struct blk *b, enum fy_blkw_kind kind, const struct fy_err *e)
{
    struct fy_blkw_reply r = {.kind = kind, .bytes = kind == FY_BLKW_OPENED ? b->bytes : 0};
    if (e) {
        r.code = e->code;
        snprintf(r.text, sizeof r.text, "%.500s", e->text);
    }
    reply(b, &r);
}

static void tell_daemon(struct blk *b, const Ferry__BlkEvent *ev)
{
    uint8_t buf[2 * FY_ERR_TEXT];
    struct fy_err e;
    if (b->control >= 0 && ferry__blk_event__get_packed_size(ev) <= sizeof buf)
        fy_msg_send(b->control, buf, ferry__blk_event__pack(ev, buf), NULL, 0, &e);
}

/* The server has come, or gone (why is not NULL). */
static void tell_state(struct blk *b, const char *why)
{
    struct fy_err e = {.code = 0};
    Ferry__BlkEvent ev = FERRY__BLK_EVENT__INIT;
    snprintf(e.text, sizeof e.text, "%s", why ? why : "");
    answer(b, why ? FY_BLKW_DOWN : FY_BLKW_UP, &e);
    ev.state = true;
    ev.warning = e.text;
    tell_daemon(b, &ev);
    fy_info("%s: %s%s", b->request->name, why ? "its server is gone: " : "its server is there", e.text);
    b->told_down = why != NULL;
}

/* --- connections */

static bool ended(int pidfd, uint64_t wait_ns)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return pidfd < 0 || poll(&p, 1, (int)(wait_ns / MS)) == 1;
}

/* What a server of ours said, in place of what the protocol has to say of its silence. */
static void server_said(struct blk *b, struct fy_err *e)
{
    char text[FY_ERR_TEXT / 2];
    off_t end = b->said >= 0 ? lseek(b->said, 0, SEEK_END) : 0;
    if (end <= 0 || !ended(b->server, 1000 * MS))
        return;
    off_t from = end > (off_t)sizeof text - 1 ? end - (off_t)sizeof text + 1 : 0;
    ssize_t n = pread(b->said, text, sizeof text - 1, from);
    while (n > 0 && (text[n - 1] == '\n' || text[n - 1] == ' '))
        n--;
    if (n <= 0)
        return;
    text[n] = 0;
    for (char *p = text; *p; p++)
        if (*p == '\n')
            *p = ' ';
    fy_fail(e, FY_EREFUSED, "%s", text);
}

static void retry_later(struct blk *b)
{
    b->retry_ns = fy_now_ns() + b->retry_ms * MS;
    b->retry_ms = FY_MIN(2 * b->retry_ms, RETRY_MAX_MS);
}

static void disconnect(struct blk *b, bool bye)
{
    fy_serve_connection(b->serve, NULL);
    fy_nbd_close(b->n, bye);
    b->n = NULL;
}

static void failed(struct blk *b, const struct fy_err *e)
{
    if (b->opening) {
        b->opening = b->wanted = false;
        answer(b, FY_BLKW_OPENED, e);
        return;
    }
    if (!b->wanted)
        return;
    if (!b->told_down)
        tell_state(b, e->text);
    retry_later(b);
}

/* The connection broke, or is of no use. */
static void lost(struct blk *b, const char *why)
{
    disconnect(b, false);
    b->hold_until_ns = fy_now_ns() + (uint64_t)b->request->hold_s * 1000 * MS;
    if (b->closing) {
        struct fy_err e;
        b->closing = false;
        fy_fail(&e, FY_EUNREACHABLE, "%s", why);
        answer(b, FY_BLKW_CLOSED, &e);
    }
    tell_state(b, why);
    b->retry_ms = RETRY_MS;
    b->retry_ns = 0;
}

static void *attempt_main(void *arg)
{
    struct attempt *a = arg;
    a->n = fy_nbd_connect(&a->place, a->until_ns, &a->err);
    eventfd_write(a->event, 1);
    return NULL;
}

static void attempt(struct blk *b, int fd)
{
    struct attempt *a = calloc(1, sizeof *a);
    pthread_t t;
    struct fy_err e;
    if (a) {
        *a = (struct attempt){.place = {b->request->host, b->request->port, fd, b->request->export_name},
                              .until_ns = fy_now_ns() + CONNECT_NS,
                              .event = b->event};
        if (pthread_create(&t, NULL, attempt_main, a) == 0) {
            pthread_detach(t);
            b->attempt = a;
            return;
        }
    }
    free(a);
    fy_close(&fd);
    fy_fail(&e, FY_ERESOURCE, "no memory for a connection");
    failed(b, &e);
}

static void try_now(struct blk *b)
{
    struct fy_err e;
    if (b->attempt || b->asked || b->n)
        return;
    b->retry_ns = UINT64_MAX;
    if (*b->request->host) {
        attempt(b, -1);
    } else if (b->control < 0) {
        /* Only ferryd can make another; the next one starts another of us. */
        fy_fail(&e, FY_EUNREACHABLE, "there is no ferryd to make a connection");
        failed(b, &e);
        b->ended = true;
    } else if (!ended(b->server, 0)) {
        /* Its lock is in the way of the next. */
        b->retry_ns = fy_now_ns() + 20 * MS;
    } else {
        Ferry__BlkEvent ev = FERRY__BLK_EVENT__INIT;
        ev.connect = b->asked = true;
        tell_daemon(b, &ev);
    }
}

static int fits(struct blk *b, struct fy_nbd *n, struct fy_err *e)
{
    struct fy_nbd_facts f;
    fy_nbd_facts(n, &f);
    if (f.bytes != b->bytes)
        return fy_fail(e, FY_EREFUSED, "it has %llu bytes there, the guest's disk %llu",
                       (unsigned long long)f.bytes, (unsigned long long)b->bytes);
    if (f.read_only && !b->read_only)
        return fy_fail(e, FY_EREFUSED, "the server's export is read-only (say ro, or export it for writing)");
    if (f.min_block > FY_BLKW_SECTOR || f.max_block < FY_BLKW_SECTOR)
        return fy_fail(e, FY_EUNSUPPORTED, "the server goes by blocks of %u to %u bytes, a guest by %u",
                       f.min_block, f.max_block, FY_BLKW_SECTOR);
    return 0;
}

static void attempt_over(struct blk *b)
{
    struct attempt *a = b->attempt;
    eventfd_t n;
    eventfd_read(b->event, &n);
    if (!a)
        return;
    struct fy_err e = a->err;
    struct fy_nbd *c = a->n;
    free(a);
    b->attempt = NULL;
    if (!c) {
        server_said(b, &e);
        failed(b, &e);
    } else if (!b->wanted || fits(b, c, &e) < 0) {
        fy_nbd_close(c, true);
        failed(b, &e);
    } else {
        b->n = c;
        b->hold_until_ns = UINT64_MAX;
        b->expired = false;
        b->retry_ms = RETRY_MS;
        fy_serve_size(b->serve, b->bytes);
        if (b->opening)
            answer(b, FY_BLKW_OPENED, NULL);
        else
            tell_state(b, NULL);
        b->opening = b->told_down = false;
        fy_serve_connection(b->serve, c);
    }
}

/* --- ferry-hv's words about the disk */

static void on_open(struct blk *b, const struct fy_blkw_request *r, int memory, struct fy_err *e)
{
    if (memory < 0 || fy_serve_memory(b->serve, memory, r->seg, r->segs, e) < 0) {
        b->ended = true;
        return;
    }
    bool keep = r->flags & FY_BLKW_F_KEEP;
    b->bytes = r->bytes;
    b->read_only = r->flags & FY_BLKW_F_READ_ONLY;
    fy_serve_size(b->serve, b->bytes);
    if (b->n && !keep) {
        answer(b, FY_BLKW_OPENED, NULL);
        return;
    }
    b->opening = !keep;
    b->wanted = true;
    b->retry_ms = RETRY_MS;
    b->hold_until_ns = keep ? fy_now_ns() + (uint64_t)b->request->hold_s * 1000 * MS : UINT64_MAX;
    try_now(b);
}

static void close_over(struct blk *b)
{
    struct fy_err e = {.code = 0};
    if (b->flush_err == ENOTCONN) {
        lost(b, "the connection broke");
        return;
    }
    b->closing = false;
    if (b->flush_err) {
        fy_fail_errno(&e, FY_EFAIL, b->flush_err, "what was written cannot be made durable");
        answer(b, FY_BLKW_CLOSED, &e);
        return;
    }
    disconnect(b, true);
    b->wanted = false;
    if (!ended(b->server, END_NS)) {
        /* It has the disk still: so it is ours. */
        fy_fail(&e, FY_EDEADLINE, "its server does not end");
        b->wanted = true;
        b->hold_until_ns = fy_now_ns() + (uint64_t)b->request->hold_s * 1000 * MS;
        b->retry_ns = 0;
    }
    answer(b, FY_BLKW_CLOSED, e.code ? &e : NULL);
}

static void on_flushed(void *arg, int err)
{
    struct blk *b = arg;
    b->flush_err = err;
    b->flushed = true;
}

static void on_close(struct blk *b)
{
    struct fy_err e;
    struct fy_nbd_facts f;
    if (!b->wanted) {
        answer(b, FY_BLKW_CLOSED, NULL);
        return;
    }
    if (!b->n || fy_serve_open(b->serve)) {
        fy_fail(&e, FY_EUNREACHABLE, "its server is not there");
        answer(b, FY_BLKW_CLOSED, &e);
        return;
    }
    fy_nbd_facts(b->n, &f);
    b->closing = true;
    b->flushed = b->read_only || !f.flush;
    b->flush_err = 0;
    if (!b->flushed && fy_nbd_start(b->n, FY_NBD_FLUSH, NULL, 0, 0, false, on_flushed, b) != 0)
        lost(b, "the connection broke");
}

static void on_park(struct blk *b)
{
    /* What is under way writes into memory until the connection is closed. */
    if (fy_serve_open(b->serve) && b->n) {
        disconnect(b, false);
        b->hold_until_ns = fy_now_ns() + (uint64_t)b->request->hold_s * 1000 * MS;
        b->retry_ns = 0;
    }
    fy_serve_fail(b->serve, 0);
    answer(b, FY_BLKW_PARKED, NULL);
}

static void on_hv(struct blk *b)
{
    static uint8_t buf[FY_MSG_MAX];
    static struct fy_blkw_request r;
    struct fy_err e = {.code = 0};
    int fd = -1, nfds = 1;
    long len = fy_msg_recv(HV_FD, buf, &fd, &nfds, &e);
    if (len == -2)
        return;
    if (len <= 0) {
        b->ended = true;
        return;
    }
    if (nfds == 0)
        fd = -1;
    if (fy_blkw_get_request(buf, (size_t)len, &r, &e) < 0)
        b->ended = true;
    else if (r.op == FY_BLKW_OPEN)
        on_open(b, &r, fd, &e);
    else if (r.op == FY_BLKW_CLOSE)
        on_close(b);
    else if (r.op == FY_BLKW_PARK)
        on_park(b);
    else if ((b->read_only && r.op != FY_BLKW_READ && r.op != FY_BLKW_FLUSH) ||
             fy_serve_request(b->serve, &r, &e) < 0)
        b->ended = true;
    else if (b->expired)
        fy_serve_fail(b->serve, EIO);
    if (b->ended)
        fy_error("%s: %s", b->request->name,
                 e.code ? e.text : "a request that its hypervisor has no right to");
    fy_close(&fd);
}

/* --- ferryd */

static void on_control(struct blk *b)
{
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    int fds[3] = {-1, -1, -1}, nfds = 3;
    long len = fy_msg_recv(b->control, buf, fds, &nfds, &e);
    if (len == -2)
        return;
    if (len <= 0) {
        fy_close(&b->control);
        if (b->asked) {
            b->asked = false;
            try_now(b);
        }
        return;
    }
    Ferry__BlkRequest *r = ferry__blk_request__unpack(NULL, (size_t)len, buf);
    if (r && r->connection && b->asked) {
        b->asked = false;
        fy_close(&b->server);
        fy_close(&b->said);
        if (nfds == 3) {
            b->server = fds[1];
            b->said = fds[2];
            fds[1] = fds[2] = -1;
        }
        if (nfds == 0 || *r->error) {
            fy_fail(&e, FY_EUNREACHABLE, "%s", *r->error ? r->error : "no connection came");
            failed(b, &e);
        } else {
            attempt(b, fds[0]);
            fds[0] = -1;
        }
    }
    if (r)
        ferry__blk_request__free_unpacked(r, NULL);
    for (int i = 0; i < nfds; i++)
        fy_close(&fds[i]);
}

/* --- the loop */

static int timeout_of(const struct blk *b)
{
    uint64_t next = UINT64_MAX, now = fy_now_ns();
    if (b->wanted && !b->n && !b->attempt && !b->asked)
        next = b->retry_ns;
    if (b->wanted && !b->n && !b->expired)
        next = FY_MIN(next, b->hold_until_ns);
    if (next == UINT64_MAX)
        return -1;
    return next <= now ? 0 : (int)FY_MIN((next - now) / MS + 1, 60000ull);
}

static void on_time(struct blk *b)
{
    uint64_t now = fy_now_ns();
    if (!b->wanted || b->n)
        return;
    if (!b->expired && now >= b->hold_until_ns) {
        b->expired = true;
        fy_warn("%s: its server has been gone for %u s; requests fail until it is back", b->request->name,
                b->request->hold_s);
        fy_serve_fail(b->serve, EIO);
    }
    if (now >= b->retry_ns)
        try_now(b);
}

static void serve(struct blk *b)
{
    while (!b->ended) {
        if (b->n && !fy_serve_turn(b->serve))
            lost(b, "the connection broke");
        if (b->n && b->closing && b->flushed)
            close_over(b);
        struct pollfd p[4] = {{.fd = HV_FD, .events = POLLIN},
                              {.fd = b->control, .events = POLLIN},
                              {.fd = b->event, .events = POLLIN},
                              {.fd = -1}};
        if (b->n)
            p[3].fd = fy_nbd_fd(b->n, &p[3].events);
        struct fy_nbd *n = b->n;
        int r = poll(p, 4, timeout_of(b));
        if (r < 0 && errno != EINTR)
            break;
        if (r <= 0)
            memset(p, 0, sizeof p);
        if (n && p[3].revents && !fy_nbd_ready(n, p[3].revents)) {
            fy_serve_turn(b->serve); /* what came back before it broke */
            lost(b, "the connection broke");
        }
        if (p[2].revents)
            attempt_over(b);
        if (p[1].revents)
            on_control(b);
        for (int i = 0; i < 32 && p[0].revents && !b->ended; i++) {
            struct pollfd more = {.fd = HV_FD, .events = POLLIN};
            on_hv(b);
            if (poll(&more, 1, 0) <= 0)
                break;
        }
        on_time(b);
    }
}

/* Its user: outside of what systems give to others, new for each process. It needs sockets and what the
 * resolver reads. */
static int isolate(struct fy_err *e)
{
    uint32_t layers;
    const struct fy_sandbox_wants wants = {.uid = 0x69000000u | ((uint32_t)getpid() & 0xffffffu),
                                           .connect = true};
    if (fy_sandbox_process(&wants, &layers, e) < 0)
        return -1;
    fy_sandbox_thread(FY_SANDBOX_WORKER);
    return 0;
}

/* What there is, for ferryd: "BYTES" on its output, or "!CODE why". */
static int ask(struct fy_err *e)
{
    char *buf = NULL;
    struct fy_nbd_facts f = {0};
    off_t len = lseek(HV_FD, 0, SEEK_END);
    Ferry__BlkRequest *q = NULL;
    if (len > 0 && len <= FY_MSG_MAX && (buf = malloc((size_t)len)) &&
        fy_pread_all(HV_FD, buf, (size_t)len, 0) == 0)
        q = ferry__blk_request__unpack(NULL, (size_t)len, (uint8_t *)buf);
    free(buf);
    if (!q)
        return fy_fail(e, FY_EUSAGE, "no disk is described (ferryd starts this program)");
    struct fy_nbd_place at = {q->host, q->port, *q->host ? -1 : CONTROL_FD, q->export_name};
    struct fy_nbd *n = fy_nbd_connect(&at, fy_now_ns() + ASK_NS, e);
    int r = n ? 0 : -1;
    if (n) {
        struct blk b = {.read_only = q->read_only};
        fy_nbd_facts(n, &f);
        b.bytes = f.bytes;
        r = fits(&b, n, e);
        if (r == 0 && (!f.bytes || f.bytes % FY_BLKW_SECTOR || f.bytes > INT64_MAX))
            r = fy_fail(e, FY_EUSAGE, "it has %llu bytes: a disk has a multiple of %u, and some",
                        (unsigned long long)f.bytes, FY_BLKW_SECTOR);
    }
    fy_nbd_close(n, true);
    ferry__blk_request__free_unpacked(q, NULL);
    if (r < 0)
        printf("!%d %s\n", e->code, e->text);
    else
        printf("%llu\n", (unsigned long long)f.bytes);
    return 0;
}

static int start(struct blk *b, struct fy_err *e)
{
    static uint8_t buf[FY_MSG_MAX];
    int none = 0;
    long len = fy_msg_recv(CONTROL_FD, buf, NULL, &none, e);
    b->request = len > 0 ? ferry__blk_request__unpack(NULL, (size_t)len, buf) : NULL;
    if (!b->request)
        return fy_fail(e, FY_EUSAGE, "no disk is described (ferryd starts this program)");
    b->control = CONTROL_FD;
    b->server = b->said = -1;
    b->retry_ms = RETRY_MS;
    b->retry_ns = b->hold_until_ns = UINT64_MAX;
    b->event = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    b->serve = fy_serve_new(on_done, b, e);
    if (b->event < 0 || !b->serve)
        return fy_fail(e, FY_ERESOURCE, "no memory for a disk");
    fcntl(CONTROL_FD, F_SETFL, fcntl(CONTROL_FD, F_GETFL) | O_NONBLOCK);
    return 0;
}

int main(int argc, char **argv)
{
    static struct blk b;
    struct fy_err e = {.code = 0};
    fy_log_init("ferry-blk", FY_LOG_INFO);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        puts(FERRY_VERSION);
        return 0;
    }
    bool asks = argc == 2 && !strcmp(argv[1], "--ask");
    if (isolate(&e) < 0 || (asks ? ask(&e) : start(&b, &e)) < 0) {
        fy_error("%s", e.text);
        return e.code ? e.code : FY_EFAIL;
    }
    if (!asks)
        serve(&b);
    return 0;
}
