// SPDX-License-Identifier: Apache-2.0
#include "hv/backend/remote.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/timerfd.h>
#include <unistd.h>

#include "hv/backend/blk_wire.h"
#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"

#define NAME_MAX_BYTES 160
#define MS 1000000ull
/* How long a pause waits for requests: of a server that is there, of one that is known to be gone. */
#define DRAIN_NS (3000 * MS)
#define DRAIN_DOWN_NS (500 * MS)
#define PARK_NS (5000 * MS)
/* Less than a daemon waits for the answer to a request to run. */
#define OPEN_NS (4000 * MS)
#define OPEN_AGAIN_NS (50 * MS)
#define CLOSE_NS (20000 * MS)

struct remote {
    struct fy_block b; /* its event_fd is an epoll set of sock and timer */
    struct fy_remote_config c;
    char name[NAME_MAX_BYTES];
    int sock; /* -1: its process is gone */
    int timer;
    struct fy_block_req *slot[FY_BLKW_IDS]; /* sent, by id */
    unsigned sent;
    struct fy_block_req *wait, **wait_end; /* not sent */
    unsigned waiting;
    bool wanted;                 /* the disk is ours: opened, and not closed since */
    bool standing;               /* parked by a pause: nothing is sent before resume */
    bool up;                     /* the server is there, as far as is known */
    bool expired;                /* the process has been gone for too long */
    bool asked;                  /* an OPEN awaits its answer */
    uint64_t first_until;        /* the first OPEN of all is waited for until then */
    struct fy_block_req *failed; /* ended before they began */
    enum fy_blkw_kind answer;    /* of the last word about the disk */
    struct fy_err said;          /* its error, or code 0 */
    char why[FY_BLKW_TEXT_MAX + 1];
};

static void push(struct remote *r, struct fy_block_req *q)
{
    q->next = NULL;
    *r->wait_end = q;
    r->wait_end = &q->next;
    r->waiting++;
}

static struct fy_block_req *pull(struct remote *r)
{
    struct fy_block_req *q = r->wait;
    if (q) {
        r->wait = q->next;
        if (!r->wait)
            r->wait_end = &r->wait;
        r->waiting--;
    }
    return q;
}

/* What was sent waits again, before what was not. The order between them is not kept, nor needed: only what
 * is done is before something else. */
static void take_back(struct remote *r)
{
    for (unsigned i = 0; i < FY_BLKW_IDS; i++) {
        struct fy_block_req *q = r->slot[i];
        if (!q)
            continue;
        r->slot[i] = NULL;
        r->sent--;
        q->next = r->wait;
        if (!r->wait)
            r->wait_end = &q->next;
        r->wait = q;
        r->waiting++;
    }
}

static void arm(struct remote *r, uint64_t ns)
{
    struct itimerspec t = {.it_value = {(time_t)(ns / 1000000000ull), (long)(ns % 1000000000ull)}};
    timerfd_settime(r->timer, 0, &t, NULL);
}

/* Its process is gone, or says what none of ours does. */
static void lose(struct remote *r, const char *why)
{
    if (r->sock < 0)
        return;
    fy_warn("%s: %s", r->name, why);
    fy_close(&r->sock); /* and so out of the epoll set */
    take_back(r);
    r->up = r->asked = false;
    snprintf(r->why, sizeof r->why, "%s", why);
    arm(r, r->c.hold_ns);
    if (r->c.lost)
        r->c.lost(r->c.arg);
}

static int say(struct remote *r, const struct fy_blkw_request *m, int fd)
{
    uint8_t buf[FY_BLKW_REQUEST_MAX];
    size_t len = fy_blkw_put_request(m, buf);
    struct fy_err e;
    int n;
    /* A vCPU that resets its disk may do no more than send. */
    if (fd >= 0)
        n = fy_msg_send(r->sock, buf, len, &fd, 1, &e);
    else if (send(r->sock, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL) >= 0)
        return 0;
    else
        n = errno == EAGAIN || errno == ENOBUFS || errno == EINTR ? -2 : -1;
    if (n == -1)
        lose(r, "its ferry-blk has ended");
    return n;
}

/* 0: sent; -2: later; -1: it cannot be. */
static int send_request(struct remote *r, struct fy_block_req *q)
{
    static const enum fy_blkw_op ops[] = {[FY_BLOCK_READ] = FY_BLKW_READ,
                                          [FY_BLOCK_WRITE] = FY_BLKW_WRITE,
                                          [FY_BLOCK_FLUSH] = FY_BLKW_FLUSH,
                                          [FY_BLOCK_DISCARD] = FY_BLKW_DISCARD,
                                          [FY_BLOCK_ZEROES] = FY_BLKW_ZEROES};
    struct fy_blkw_request m = {.op = ops[q->op], .offset = q->offset, .bytes = q->bytes};
    unsigned id = 0;
    while (id < FY_BLKW_IDS && r->slot[id])
        id++;
    if (id == FY_BLKW_IDS)
        return -2;
    m.id = id;
    m.flags = q->op == FY_BLOCK_ZEROES && q->unmap ? FY_BLKW_F_UNMAP : 0;
    if (q->op == FY_BLOCK_READ || q->op == FY_BLOCK_WRITE) {
        if (q->iov_count > FY_BLKW_SEGS_MAX)
            return -1;
        for (unsigned i = 0; i < q->iov_count; i++) {
            uint64_t at = (uint64_t)((uint8_t *)q->iov[i].iov_base - r->c.gmem->host);
            if (at >= r->c.gmem->bytes || q->iov[i].iov_len > r->c.gmem->bytes - at)
                return -1;
            m.seg[m.segs++] = (struct fy_blkw_seg){at, q->iov[i].iov_len};
        }
    }
    int n = say(r, &m, -1);
    if (n == 0) {
        r->slot[id] = q;
        r->sent++;
    }
    return n == 0 ? 0 : -2;
}

static void end(struct remote *r, struct fy_block_req *q, int err)
{
    if (err && err != ECANCELED)
        fy_warn_limited("%s: %s of %llu bytes at %llu: %s", r->name,
                        (const char *[]){"read", "write", "flush", "discard", "zeroes"}[q->op],
                        (unsigned long long)q->bytes, (unsigned long long)q->offset, strerror(err));
    q->done(q, err);
}

static void remote_submit(struct fy_block *b, struct fy_block_req *q)
{
    push((struct remote *)b, q);
}

static void send_waiting(struct remote *r)
{
    if (r->expired && r->waiting)
        arm(r, 1); /* they fail, in reap */
    while (r->sock >= 0 && r->wanted && !r->asked && !r->standing && r->wait) {
        struct fy_block_req *q = pull(r);
        int n = send_request(r, q);
        if (n == 0)
            continue;
        if (n == -1) {
            q->next = r->failed;
            r->failed = q;
            arm(r, 1);
            continue;
        }
        q->next = r->wait;
        if (!r->wait)
            r->wait_end = &q->next;
        r->wait = q;
        r->waiting++;
        return; /* an answer makes room */
    }
}

static bool remote_kick(struct fy_block *b)
{
    send_waiting((struct remote *)b);
    return false;
}

static void on_reply(struct remote *r, const struct fy_blkw_reply *a)
{
    struct fy_block_req *q;
    switch (a->kind) {
    case FY_BLKW_DONE:
        q = r->slot[a->id];
        if (!q) {
            lose(r, "its ferry-blk answers what nobody asked");
            return;
        }
        r->slot[a->id] = NULL;
        r->sent--;
        end(r, q, a->error);
        return;
    case FY_BLKW_OPENED:
    case FY_BLKW_CLOSED:
    case FY_BLKW_PARKED:
        r->answer = a->kind;
        r->said.code = a->code;
        snprintf(r->said.text, sizeof r->said.text, "%s", a->text);
        if (a->kind == FY_BLKW_OPENED) {
            r->asked = false;
            r->up = !a->code;
            if (!a->code && a->bytes != r->c.bytes) {
                r->said.code = FY_EREFUSED;
                snprintf(r->said.text, sizeof r->said.text, "it has %llu bytes there, the guest's disk %llu",
                         (unsigned long long)a->bytes, (unsigned long long)r->c.bytes);
            } else if (!a->code) {
                r->wanted = true;
            }
        }
        return;
    case FY_BLKW_UP:
    case FY_BLKW_DOWN:
        if (r->up != (a->kind == FY_BLKW_UP))
            fy_info("%s: %s%s", r->name, r->up ? "its server is gone: " : "its server is there", a->text);
        r->up = a->kind == FY_BLKW_UP;
        snprintf(r->why, sizeof r->why, "%s", a->text);
        return;
    }
}

/* What has come. read: what a vCPU may call, on a seqpacket socket one message. */
static void take_messages(struct remote *r)
{
    uint8_t buf[FY_BLKW_REPLY_MAX + 1];
    struct fy_blkw_reply a;
    struct fy_err e;
    while (r->sock >= 0) {
        ssize_t n = read(r->sock, buf, sizeof buf);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && errno == EAGAIN)
            return;
        if (n <= 0)
            lose(r, "its ferry-blk has ended");
        else if (fy_blkw_get_reply(buf, (size_t)n, &a, &e) < 0)
            lose(r, e.text);
        else
            on_reply(r, &a);
    }
}

/* Wait for a message until `until`; false: none came. */
static bool wait_message(struct remote *r, uint64_t until)
{
    struct pollfd p = {.fd = r->sock, .events = POLLIN};
    uint64_t now = fy_now_ns();
    if (r->sock < 0 || now >= until)
        return false;
    poll(&p, 1, (int)((until - now) / MS) + 1);
    take_messages(r);
    return true;
}

static void fail_waiting(struct remote *r)
{
    uint64_t n;
    struct fy_block_req *q;
    while ((q = r->failed)) {
        r->failed = q->next;
        end(r, q, EIO);
    }
    if (read(r->timer, &n, sizeof n) != sizeof n)
        return;
    if (r->sock < 0)
        r->expired = true;
    if (!r->expired || r->standing)
        return;
    /* What a callback submits meanwhile fails the next time. */
    for (unsigned left = r->waiting; left && (q = pull(r)); left--)
        end(r, q, EIO);
    r->expired = r->sock < 0;
}

/* A pause is not kept waiting any longer: what is not done stands, and touches no memory. */
static void stand(struct remote *r)
{
    struct fy_blkw_request m = {.op = FY_BLKW_PARK};
    r->standing = true;
    if (r->sent && r->sock >= 0) {
        uint64_t until = fy_now_ns() + PARK_NS;
        r->answer = FY_BLKW_DONE;
        int n;
        while ((n = say(r, &m, -1)) == -2 && wait_message(r, until))
            continue;
        while (n == 0 && r->answer != FY_BLKW_PARKED && wait_message(r, until))
            continue;
        if (r->answer != FY_BLKW_PARKED)
            lose(r, "its ferry-blk does not answer");
    }
    take_back(r);
    if (r->waiting)
        fy_warn("%s: %u requests stand until the guest goes on: %s", r->name, r->waiting,
                r->why[0] ? r->why : "the server is slow");
    else
        r->standing = false;
}

static unsigned remote_reap(struct fy_block *b, bool wait)
{
    struct remote *r = (struct remote *)b;
    uint64_t start = fy_now_ns();
    take_messages(r);
    fail_waiting(r);
    send_waiting(r);
    if (!wait)
        return r->sent + r->waiting;
    while ((r->sent || r->waiting || r->failed) && !r->standing) {
        if (r->failed) {
            fail_waiting(r);
            continue;
        }
        bool gone = r->sock < 0 || !r->wanted;
        uint64_t until = start + (gone ? 0 : r->up ? DRAIN_NS : DRAIN_DOWN_NS);
        if (!wait_message(r, until))
            stand(r);
        fail_waiting(r);
        send_waiting(r);
    }
    return 0;
}

static void remote_resume(struct fy_block *b)
{
    ((struct remote *)b)->standing = false;
}

/* Its driver is gone: what stands is given back. */
static void remote_cancel(struct fy_block *b)
{
    struct remote *r = (struct remote *)b;
    struct fy_block_req *q;
    while ((q = pull(r)))
        end(r, q, ECANCELED);
    r->standing = false;
}

/* --- the disk as a whole */

static int send_open(struct remote *r, bool keep)
{
    const struct fy_gmem *g = r->c.gmem;
    struct fy_blkw_request m = {.op = FY_BLKW_OPEN, .bytes = r->c.bytes};
    m.flags = (r->b.read_only ? FY_BLKW_F_READ_ONLY : 0) | (keep ? FY_BLKW_F_KEEP : 0);
    for (unsigned i = 0; i < g->ram_slots; i++)
        m.seg[m.segs++] = (struct fy_blkw_seg){g->slots[i].offset, g->slots[i].bytes};
    if (r->sock < 0 || say(r, &m, g->fd) != 0)
        return -1;
    r->asked = !keep;
    r->wanted = keep;
    return 0;
}

static int remote_take(struct fy_block *b, struct fy_err *e)
{
    struct remote *r = (struct remote *)b;
    take_messages(r);
    if (r->wanted)
        return 0;
    uint64_t until = FY_MAX(fy_now_ns() + OPEN_AGAIN_NS, r->first_until);
    r->first_until = 0;
    if (r->sock < 0 || (!r->asked && send_open(r, false) < 0))
        return fy_fail(e, FY_ESTATE, "%s: its ferry-blk is gone, and another is not here yet", r->name);
    while (r->asked && wait_message(r, until))
        continue;
    if (r->asked)
        return fy_fail(e, FY_EDEADLINE, "%s: its server has not answered yet", r->name);
    if (r->wanted)
        return 0;
    if (r->sock < 0)
        return fy_fail(e, FY_EFAIL, "%s: %s", r->name, r->why);
    return fy_fail(e, r->said.code ? r->said.code : FY_EFAIL, "%s: %s", r->name, r->said.text);
}

static int remote_give_up(struct fy_block *b, struct fy_err *e)
{
    struct remote *r = (struct remote *)b;
    struct fy_blkw_request m = {.op = FY_BLKW_CLOSE};
    uint64_t until = fy_now_ns() + CLOSE_NS;
    take_messages(r);
    if (!r->wanted)
        return 0;
    if (r->sent || r->waiting)
        return fy_fail(e, FY_ESTATE, "%s: %u requests are not done: %s", r->name, r->sent + r->waiting,
                       r->why[0] ? r->why : "its server does not answer");
    r->answer = FY_BLKW_DONE;
    if (r->sock < 0 || say(r, &m, -1) != 0)
        return fy_fail(e, FY_ESTATE, "%s: its ferry-blk is gone", r->name);
    while (r->answer != FY_BLKW_CLOSED && wait_message(r, until))
        continue;
    if (r->answer == FY_BLKW_CLOSED && r->said.code)
        return fy_fail(e, r->said.code, "%s: %s", r->name, r->said.text);
    r->wanted = false; /* also when it is not known: take asks again */
    if (r->answer != FY_BLKW_CLOSED)
        return fy_fail(e, FY_EDEADLINE, "%s: what was written cannot be made durable in time", r->name);
    return 0;
}

static void remote_free(struct fy_block *b)
{
    struct remote *r = (struct remote *)b;
    fy_close(&r->sock);
    fy_close(&r->timer);
    fy_close(&b->event_fd);
    free(r);
}

static const struct fy_block_ops remote_ops = {.submit = remote_submit,
                                               .kick = remote_kick,
                                               .reap = remote_reap,
                                               .give_up = remote_give_up,
                                               .take = remote_take,
                                               .resume = remote_resume,
                                               .cancel = remote_cancel,
                                               .free = remote_free};

static int join(struct remote *r, int sock, struct fy_err *e)
{
    int type = 0;
    socklen_t len = sizeof type;
    struct epoll_event ev = {.events = EPOLLIN};
    if (getsockopt(sock, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET ||
        fcntl(sock, F_SETFL, O_NONBLOCK) < 0)
        return fy_fail(e, FY_EUSAGE, "%s: its descriptor is no seqpacket socket", r->name);
    if (epoll_ctl(r->b.event_fd, EPOLL_CTL_ADD, sock, &ev) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "%s: cannot watch its socket", r->name);
    r->sock = sock;
    return 0;
}

struct fy_block *fy_remote_new(int sock, const struct fy_remote_config *c, struct fy_err *e)
{
    struct remote *r = calloc(1, sizeof *r);
    struct epoll_event ev = {.events = EPOLLIN};
    if (!r) {
        fy_close(&sock);
        fy_fail(e, FY_ERESOURCE, "no memory for %s", c->name);
        return NULL;
    }
    r->b = (struct fy_block){.ops = &remote_ops, .bytes = c->bytes, .read_only = c->read_only, .level = true};
    r->c = *c;
    snprintf(r->name, sizeof r->name, "%s", c->name);
    r->wait_end = &r->wait;
    r->sock = -1;
    r->first_until = fy_now_ns() + OPEN_NS;
    r->b.event_fd = epoll_create1(EPOLL_CLOEXEC);
    r->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
    int rc = 0;
    if (r->b.event_fd < 0 || r->timer < 0 || epoll_ctl(r->b.event_fd, EPOLL_CTL_ADD, r->timer, &ev) < 0)
        rc = fy_fail_errno(e, FY_ERESOURCE, errno, "%s: cannot make a timer", r->name);
    if (rc == 0)
        rc = join(r, sock, e);
    if (rc == 0 && send_open(r, false) < 0)
        rc = fy_fail(e, FY_EFAIL, "%s: its ferry-blk has ended", r->name);
    if (rc == 0)
        return &r->b;
    if (r->sock < 0)
        fy_close(&sock);
    remote_free(&r->b);
    return NULL;
}

int fy_remote_attach(struct fy_block *b, int sock, struct fy_err *e)
{
    struct remote *r = (struct remote *)b;
    int rc = 0;
    take_messages(r);
    if (b->ops != &remote_ops || r->sock >= 0)
        rc = fy_fail(e, FY_ESTATE, "this disk has what serves it");
    else
        rc = join(r, sock, e);
    if (rc < 0) {
        fy_close(&sock);
        return -1;
    }
    r->expired = false;
    arm(r, 0);
    snprintf(r->why, sizeof r->why, "its ferry-blk is new");
    if (r->wanted && send_open(r, true) < 0)
        return fy_fail(e, FY_EFAIL, "%s: its ferry-blk has ended", r->name);
    return 0;
}

bool fy_remote_status(const struct fy_block *b, struct fy_remote_status *s)
{
    const struct remote *r = (const struct remote *)b;
    if (!b || b->ops != &remote_ops)
        return false;
    *s = (struct fy_remote_status){
        .process = r->sock >= 0, .up = r->up, .waits = r->sent + r->waiting, .why = r->why};
    return true;
}
