// SPDX-License-Identifier: Apache-2.0
/* A disk that a process of its own serves: the hypervisor's half, against a process that is played here. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/backend/blk_wire.h"
#include "hv/backend/remote.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/msg.h"

#define MIB (1ull << 20)
#define DISK (16 * MIB)
#define MS 1000000ull

/* What the played process does with requests. */
enum role { ANSWERS, SILENT };

struct player {
    int sock;
    enum role role;
    int open_code; /* the answer to OPEN */
    pthread_t thread;
    unsigned opens, keeps, closes, parks, requests; /* seen; read after it has ended */
};

static struct fy_gmem *gmem;
static unsigned losses;

static void on_lost(void *arg)
{
    (void)arg;
    losses++;
}

static void say(int sock, const struct fy_blkw_reply *r)
{
    uint8_t buf[FY_BLKW_REPLY_MAX];
    size_t len = fy_blkw_put_reply(r, buf);
    send(sock, buf, len, MSG_NOSIGNAL);
}

static void *play(void *arg)
{
    struct player *p = arg;
    static __thread uint8_t buf[FY_MSG_MAX];
    static __thread struct fy_blkw_request r;
    struct fy_err e;
    for (;;) {
        int fd = -1, nfds = 1;
        long len = fy_msg_recv(p->sock, buf, &fd, &nfds, &e);
        if (len <= 0)
            break;
        struct fy_blkw_reply a = {0};
        if (nfds)
            close(fd);
        if (fy_blkw_get_request(buf, (size_t)len, &r, &e) < 0)
            break;
        switch (r.op) {
        case FY_BLKW_OPEN:
            p->opens++;
            p->keeps += (r.flags & FY_BLKW_F_KEEP) != 0;
            a = (struct fy_blkw_reply){
                .kind = FY_BLKW_OPENED, .code = p->open_code, .bytes = r.bytes, .text = "no"};
            if (!(r.flags & FY_BLKW_F_KEEP))
                say(p->sock, &a);
            break;
        case FY_BLKW_CLOSE:
            p->closes++;
            a.kind = FY_BLKW_CLOSED;
            say(p->sock, &a);
            break;
        case FY_BLKW_PARK:
            p->parks++;
            a.kind = FY_BLKW_PARKED;
            say(p->sock, &a);
            break;
        default:
            p->requests++;
            a = (struct fy_blkw_reply){
                .kind = FY_BLKW_DONE, .id = r.id, .error = r.offset == 512 ? ENOSPC : 0};
            if (__atomic_load_n(&p->role, __ATOMIC_SEQ_CST) == ANSWERS)
                say(p->sock, &a);
        }
    }
    fy_close(&p->sock);
    return NULL;
}

static int begin_with(struct player *p, enum role role, int open_code)
{
    int sv[2];
    struct fy_err e;
    assert_int_equal(fy_msg_pair(sv, &e), 0);
    *p = (struct player){.sock = sv[1], .role = role, .open_code = open_code};
    assert_int_equal(pthread_create(&p->thread, NULL, play, p), 0);
    return sv[0];
}

static int begin(struct player *p, enum role role)
{
    return begin_with(p, role, 0);
}

static struct fy_block *new_disk(int sock, uint64_t hold_ms, struct fy_err *e)
{
    struct fy_remote_config c = {
        .name = "disk x", .bytes = DISK, .hold_ns = hold_ms * MS, .gmem = gmem, .lost = on_lost};
    return fy_remote_new(sock, &c, e);
}

struct ask {
    struct fy_block_req r;
    struct iovec iov[2];
    int err; /* -1: not done */
};

static void done(struct fy_block_req *r, int err)
{
    struct ask *a = (struct ask *)r;
    assert_int_equal(a->err, -1);
    a->err = err;
}

static void submit(struct fy_block *b, struct ask *a, uint64_t offset)
{
    *a = (struct ask){.err = -1};
    a->iov[0] = (struct iovec){gmem->host + 4096, 1000};
    a->iov[1] = (struct iovec){gmem->host + 65536, 24};
    a->r = (struct fy_block_req){
        .op = FY_BLOCK_READ, .offset = offset, .bytes = 1024, .iov = a->iov, .iov_count = 2, .done = done};
    b->ops->submit(b, &a->r);
    b->ops->kick(b);
}

static void until(struct fy_block *b, const struct ask *a)
{
    uint64_t end = fy_now_ns() + 10000 * MS;
    while (a->err == -1) {
        struct pollfd p = {.fd = b->event_fd, .events = POLLIN};
        assert_true(poll(&p, 1, 1000) >= 0);
        b->ops->reap(b, false);
        assert_true(fy_now_ns() < end);
    }
}

static void finish(struct fy_block *b, struct player *p)
{
    b->ops->free(b);
    pthread_join(p->thread, NULL);
}

static void works(void **state)
{
    (void)state;
    struct player p;
    static struct ask a[200];
    struct fy_err e;
    struct fy_block *b = new_disk(begin(&p, ANSWERS), 1000, &e);
    assert_non_null(b);
    assert_int_equal(b->ops->take(b, &e), 0);
    for (unsigned i = 0; i < 200; i++)
        submit(b, &a[i], i == 7 ? 512 : i * 1024ull);
    assert_int_equal(b->ops->reap(b, true), 0);
    for (unsigned i = 0; i < 200; i++)
        assert_int_equal(a[i].err, i == 7 ? ENOSPC : 0);
    /* Memory that is no guest's never leaves. */
    a[0] = (struct ask){.err = -1, .iov = {{a, 512}}};
    a[0].r = (struct fy_block_req){
        .op = FY_BLOCK_WRITE, .bytes = 512, .iov = a[0].iov, .iov_count = 1, .done = done};
    b->ops->submit(b, &a[0].r);
    b->ops->kick(b);
    until(b, &a[0]);
    assert_int_equal(a[0].err, EIO);
    assert_int_equal(b->ops->give_up(b, &e), 0);
    assert_int_equal(b->ops->give_up(b, &e), 0);
    assert_int_equal(b->ops->take(b, &e), 0);
    assert_int_equal(b->ops->take(b, &e), 0);
    finish(b, &p);
    assert_int_equal(p.opens, 2);
    assert_int_equal(p.closes, 1);
    assert_int_equal(p.requests, 200);
}

static void refused(void **state)
{
    (void)state;
    struct player p;
    struct fy_err e = {0};
    struct fy_block *b = new_disk(begin_with(&p, ANSWERS, FY_EREFUSED), 1000, &e);
    assert_non_null(b);
    assert_int_equal(b->ops->take(b, &e), -1);
    assert_int_equal(e.code, FY_EREFUSED);
    assert_non_null(strstr(e.text, "no"));
    finish(b, &p);
}

/* A pause does not wait for a server that is gone: what is under way stands, touches nothing, and goes on. */
static void stands(void **state)
{
    (void)state;
    struct player p;
    static struct ask a[3];
    struct fy_remote_status s;
    struct fy_err e;
    struct fy_block *b = new_disk(begin(&p, SILENT), 1000, &e);
    assert_int_equal(b->ops->take(b, &e), 0);
    say(p.sock, &(struct fy_blkw_reply){.kind = FY_BLKW_DOWN, .text = "gone fishing"});
    for (unsigned i = 0; i < 3; i++)
        submit(b, &a[i], i * 4096ull);
    uint64_t start = fy_now_ns();
    assert_int_equal(b->ops->reap(b, true), 0);
    assert_true(fy_now_ns() - start < 8000 * MS);
    assert_true(fy_remote_status(b, &s));
    assert_int_equal(s.waits, 3);
    assert_false(s.up);
    assert_string_equal(s.why, "gone fishing");
    assert_int_equal(b->ops->give_up(b, &e), -1);
    assert_non_null(strstr(e.text, "gone fishing"));
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(a[i].err, -1);
    b->ops->kick(b); /* nothing moves before the machine does */
    b->ops->reap(b, false);
    __atomic_store_n(&p.role, ANSWERS, __ATOMIC_SEQ_CST);
    b->ops->resume(b);
    b->ops->kick(b);
    for (unsigned i = 0; i < 3; i++) {
        until(b, &a[i]);
        assert_int_equal(a[i].err, 0);
    }
    finish(b, &p);
    assert_int_equal(p.parks, 1);
    assert_int_equal(p.requests, 6);
}

static void cancelled(void **state)
{
    (void)state;
    struct player p;
    static struct ask a[2];
    struct fy_err e;
    struct fy_block *b = new_disk(begin(&p, SILENT), 1000, &e);
    assert_int_equal(b->ops->take(b, &e), 0);
    say(p.sock, &(struct fy_blkw_reply){.kind = FY_BLKW_DOWN});
    submit(b, &a[0], 0);
    submit(b, &a[1], 4096);
    assert_int_equal(b->ops->reap(b, true), 0);
    b->ops->cancel(b);
    assert_int_equal(a[0].err, ECANCELED);
    assert_int_equal(a[1].err, ECANCELED);
    finish(b, &p);
}

/* Its process ends: requests wait for another, and fail when none comes. */
static void another(void **state)
{
    (void)state;
    struct player p, q;
    static struct ask a;
    struct fy_remote_status s;
    struct fy_err e;
    struct fy_block *b = new_disk(begin(&p, SILENT), 60000, &e);
    assert_int_equal(b->ops->take(b, &e), 0);
    int sock = begin(&q, ANSWERS);
    assert_int_equal(fy_remote_attach(b, fy_dup(sock), &e), -1);
    assert_int_equal(e.code, FY_ESTATE);
    submit(b, &a, 4096);
    losses = 0;
    shutdown(p.sock, SHUT_RDWR);
    pthread_join(p.thread, NULL);
    b->ops->reap(b, false);
    assert_int_equal(losses, 1);
    fy_remote_status(b, &s);
    assert_false(s.process);
    assert_int_equal(s.waits, 1);
    assert_int_equal(fy_remote_attach(b, sock, &e), 0);
    b->ops->kick(b);
    until(b, &a);
    assert_int_equal(a.err, 0);
    finish(b, &q);
    assert_int_equal(q.keeps, 1);

    b = new_disk(begin(&p, SILENT), 50, &e);
    assert_int_equal(b->ops->take(b, &e), 0);
    submit(b, &a, 4096);
    shutdown(p.sock, SHUT_RDWR);
    pthread_join(p.thread, NULL);
    until(b, &a);
    assert_int_equal(a.err, EIO);
    submit(b, &a, 4096);
    until(b, &a);
    assert_int_equal(a.err, EIO);
    b->ops->free(b);
}

/* One that lies is dropped. */
static void liar(void **state)
{
    (void)state;
    struct player p;
    static struct ask a;
    struct fy_remote_status s;
    struct fy_err e;
    static const struct fy_blkw_reply lies[] = {{.id = 5, .kind = FY_BLKW_DONE},
                                                {.kind = (enum fy_blkw_kind)9}};
    for (unsigned i = 0; i < 2; i++) {
        struct fy_block *b = new_disk(begin(&p, SILENT), 60000, &e);
        assert_int_equal(b->ops->take(b, &e), 0);
        submit(b, &a, 4096);
        say(p.sock, &lies[i]);
        b->ops->reap(b, false);
        fy_remote_status(b, &s);
        assert_false(s.process);
        assert_int_equal(s.waits, 1);
        assert_int_equal(b->ops->reap(b, true), 0);
        b->ops->cancel(b);
        finish(b, &p);
    }
}

static int set_up(void **state)
{
    (void)state;
    struct fy_err e;
    int fd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(fd, 2 * (off_t)MIB), 0);
    assert_int_equal(fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL), 0);
    gmem = fy_gmem_open(fd, fy_dup(fd), 2 * MIB, false, &e);
    return gmem ? 0 : -1;
}

static int clear_up(void **state)
{
    (void)state;
    fy_gmem_free(gmem);
    return 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(works),   cmocka_unit_test(refused),
                                       cmocka_unit_test(stands),  cmocka_unit_test(cancelled),
                                       cmocka_unit_test(another), cmocka_unit_test(liar)};
    return cmocka_run_group_tests(tests, set_up, clear_up);
}
