// SPDX-License-Identifier: Apache-2.0
/* Disks with a server: messages, URIs, images' headers, and ferry-blk's half against an nbdkit. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/backend/blk_serve.h"
#include "hv/base/clock.h"
#include "hv/define/nbd_uri.h"
#include "hv/host/qcow2.h"

#define MIB (1ull << 20)
#define MEMORY (4 * MIB)
#define DISK (8 * MIB)

/* --- messages */

static const struct fy_blkw_seg area = {4096, MEMORY - 4096};

static int round_trip(const struct fy_blkw_request *r, long more)
{
    static uint8_t buf[FY_BLKW_REQUEST_MAX + 64];
    static struct fy_blkw_request got;
    struct fy_err e;
    size_t len = fy_blkw_put_request(r, buf);
    if (fy_blkw_get_request(buf, (size_t)((long)len + more), &got, &e) < 0)
        return -1;
    assert_int_equal(got.id, r->id);
    assert_int_equal(got.offset, r->offset);
    assert_int_equal(got.segs, r->segs);
    return fy_blkw_check(&got, DISK, &area, 1, &e);
}

static void requests(void **state)
{
    (void)state;
    static struct fy_blkw_request r;
    r = (struct fy_blkw_request){.id = 127,
                                 .op = FY_BLKW_READ,
                                 .offset = DISK - 1024,
                                 .bytes = 1024,
                                 .segs = 2,
                                 .seg = {{4096, 1000}, {8192, 24}}};
    assert_int_equal(round_trip(&r, 0), 0);
    assert_int_equal(round_trip(&r, 1), -1);
    assert_int_equal(round_trip(&r, -1), -1);
    const struct fy_blkw_request good = r;
    static const struct {
        size_t field;
        uint64_t value;
    } bad[] = {
        {offsetof(struct fy_blkw_request, offset), DISK - 512},
        {offsetof(struct fy_blkw_request, offset), DISK - 1023},
        {offsetof(struct fy_blkw_request, offset), UINT64_MAX - 511},
        {offsetof(struct fy_blkw_request, bytes), 512},
        {offsetof(struct fy_blkw_request, bytes), 0},
        {offsetof(struct fy_blkw_request, seg[0].at), 4095},
        {offsetof(struct fy_blkw_request, seg[0].at), MEMORY - 999},
        {offsetof(struct fy_blkw_request, seg[0].at), UINT64_MAX},
        {offsetof(struct fy_blkw_request, seg[0].len), UINT64_MAX},
        {offsetof(struct fy_blkw_request, seg[1].len), 0},
        {offsetof(struct fy_blkw_request, seg[1].len), UINT64_MAX - 999},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        r = good;
        memcpy((char *)&r + bad[i].field, &bad[i].value, 8);
        assert_int_equal(round_trip(&r, 0), -1);
    }
    r = good;
    r.id = 128;
    assert_int_equal(round_trip(&r, 0), -1);
    r = good;
    r.flags = FY_BLKW_F_UNMAP;
    assert_int_equal(round_trip(&r, 0), -1);
    r = (struct fy_blkw_request){.op = FY_BLKW_FLUSH};
    assert_int_equal(round_trip(&r, 0), 0);
    r.bytes = 512;
    assert_int_equal(round_trip(&r, 0), -1);
    for (int op = 0; op < 20; op++) {
        r = (struct fy_blkw_request){
            .op = (enum fy_blkw_op)op, .id = 1, .segs = 1, .seg = {{4096, 512}}, .bytes = 512};
        assert_int_equal(round_trip(&r, 0), op == FY_BLKW_READ || op == FY_BLKW_WRITE ? 0 : -1);
    }
}

static void replies(void **state)
{
    (void)state;
    uint8_t buf[FY_BLKW_REPLY_MAX + 1] = {0};
    struct fy_blkw_reply r = {.kind = FY_BLKW_OPENED, .code = FY_EREFUSED, .bytes = DISK, .text = "no\nway"},
                         got;
    struct fy_err e;
    size_t len = fy_blkw_put_reply(&r, buf);
    assert_int_equal(fy_blkw_get_reply(buf, len, &got, &e), 0);
    assert_string_equal(got.text, "no way");
    assert_int_equal(got.bytes, DISK);
    assert_int_equal(fy_blkw_get_reply(buf, FY_BLKW_REPLY - 1, &got, &e), -1);
    assert_int_equal(fy_blkw_get_reply(buf, sizeof buf, &got, &e), -1);
    static const struct {
        unsigned at;
        uint8_t value;
    } bad[] = {{0, 1}, {3, 1}, {4, 0}, {4, 7}, {6, 1}, {10, 1}, {11, 0x80}, {12, 99}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        fy_blkw_put_reply(&r, buf);
        buf[bad[i].at] = bad[i].value;
        assert_int_equal(fy_blkw_get_reply(buf, len, &got, &e), -1);
    }
}

/* --- URIs and headers */

static void uris(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        int code;
        const char *host, *port, *socket, *export_name;
    } all[] = {
        {"nbd://h/x", 0, "h", "10809", "", "x"},
        {"nbd://h", 0, "h", "10809", "", ""},
        {"nbd://h:1/a/b", 0, "h", "1", "", "a/b"},
        {"nbd://[::1]:65535/%41%2f", 0, "::1", "65535", "", "A/"},
        {"nbd://[::1]", 0, "::1", "10809", "", ""},
        {"nbd+unix:///x?socket=/a%20b", 0, "", "", "/a b", "x"},
        {"nbd+unix:///?socket=/s", 0, "", "", "/s", ""},
        {"nbd+unix://?socket=/s", 0, "", "", "/s", ""},
        {"nbd://h:0/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h:65536/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h:/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h:1a/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd:///x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://u@h/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h:p@e/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://[::1/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://[::1]x/x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h/%", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h/%4", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h/%00", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h/%0a", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd://h/x?socket=/s", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd+unix://h/x?socket=/s", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd+unix:///x", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd+unix:///x?socket=s", FY_EUSAGE, 0, 0, 0, 0},
        {"nbd+unix:///x?socket=/s&tls=1", FY_EUSAGE, 0, 0, 0, 0},
        {"nbds://h/x", FY_EUNSUPPORTED, 0, 0, 0, 0},
        {"nbd+vsock://1/x", FY_EUNSUPPORTED, 0, 0, 0, 0},
    };
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        struct fy_nbd_uri u;
        struct fy_err e = {.code = 0};
        int r = fy_nbd_uri_parse(all[i].text, &u, &e);
        if (e.code != all[i].code)
            fail_msg("%s: %d %s", all[i].text, e.code, e.text);
        assert_true(fy_nbd_uri_is(all[i].text));
        assert_int_equal(r, all[i].code ? -1 : 0);
        if (r < 0)
            continue;
        assert_string_equal(u.host, all[i].host);
        assert_string_equal(u.port, all[i].port);
        assert_string_equal(u.socket, all[i].socket);
        assert_string_equal(u.export_name, all[i].export_name);
    }
    assert_false(fy_nbd_uri_is("/srv/nbd.img"));
    assert_false(fy_nbd_uri_is("http://h/x"));
    assert_true(fy_nbd_uri_below("nbd://h/x", "nbd://"));
    assert_true(fy_nbd_uri_below("nbd://h/x", "nbd://h"));
    assert_true(fy_nbd_uri_below("nbd://h:1/x", "nbd://h"));
    assert_true(fy_nbd_uri_below("nbd://h:1/a/x", "nbd://h:1/a/"));
    assert_false(fy_nbd_uri_below("nbd://hh/x", "nbd://h"));
    assert_false(fy_nbd_uri_below("nbd://h:12/x", "nbd://h:1"));
    assert_false(fy_nbd_uri_below("nbd://h.evil/x", "nbd://h"));
    assert_false(fy_nbd_uri_below("nbd://h/ab", "nbd://h/a"));
    assert_false(fy_nbd_uri_below("nbd://h/x", "/srv"));
}

static void headers(void **state)
{
    (void)state;
    uint8_t h[FYD_QCOW2_HEADER] = {'Q', 'F', 'I', 0xfb, 0, 0, 0, 3};
    uint64_t bytes = 0;
    struct fy_err e;
    h[29] = 0x10; /* 1 MiB */
    assert_int_equal(fyd_qcow2_bytes(h, sizeof h, &bytes, &e), 0);
    assert_int_equal(bytes, MIB);
    assert_int_equal(fyd_qcow2_bytes(h, 71, &bytes, &e), -1);
    assert_int_equal(fyd_qcow2_bytes(h, 72, &bytes, &e), -1);
    static const struct {
        unsigned at;
        uint8_t value;
    } bad[] = {{0, 'q'}, {7, 1}, {7, 4}, {15, 8}, {24, 0x80}, {31, 1}, {29, 0}, {35, 1}, {79, 4}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        uint8_t was = h[bad[i].at];
        h[bad[i].at] = bad[i].value;
        assert_int_equal(fyd_qcow2_bytes(h, sizeof h, &bytes, &e), -1);
        h[bad[i].at] = was;
    }
}

/* --- against a server */

struct bench {
    struct fy_serve *s;
    struct fy_nbd *n;
    pid_t server;
    int memfd;
    uint8_t *memory;
    int err[FY_BLKW_IDS]; /* -1: not done */
    unsigned done;
};

static void on_done(void *arg, uint32_t id, int err)
{
    struct bench *b = arg;
    assert_int_equal(b->err[id], -1);
    b->err[id] = err;
    b->done++;
}

/* An nbdkit of one connection; the memory plugin, with words for its filters. */
static void connect_server(struct bench *b, const char *const *words)
{
    int sv[2];
    struct fy_err e;
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, sv), 0);
    b->server = fork();
    if (b->server == 0) {
        dup2(sv[1], 0);
        dup2(sv[1], 1);
        close(sv[0]);
        close(sv[1]);
        execvp("nbdkit", (char *const *)(uintptr_t)words);
        _exit(127);
    }
    close(sv[1]);
    fcntl(sv[0], F_SETFL, O_NONBLOCK);
    fcntl(sv[0], F_SETFD, FD_CLOEXEC);
    struct fy_nbd_place at = {"", "", sv[0], ""};
    b->n = fy_nbd_connect(&at, fy_now_ns() + 10000000000ull, &e);
    if (!b->n)
        fail_msg("%s", e.text);
}

static void end_server(struct bench *b)
{
    fy_serve_connection(b->s, NULL);
    fy_nbd_close(b->n, false);
    b->n = NULL;
    kill(b->server, SIGKILL);
    waitpid(b->server, NULL, 0);
}

static void set_up(struct bench *b, const char *const *words)
{
    struct fy_err e;
    memset(b, 0, sizeof *b);
    memset(b->err, 0xff, sizeof b->err);
    b->memfd = memfd_create("memory", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    assert_int_equal(ftruncate(b->memfd, MEMORY), 0);
    b->memory = mmap(NULL, MEMORY, PROT_READ | PROT_WRITE, MAP_SHARED, b->memfd, 0);
    b->s = fy_serve_new(on_done, b, &e);
    assert_int_equal(fy_serve_memory(b->s, b->memfd, &area, 1, &e), -1); /* it might become shorter */
    assert_int_equal(fcntl(b->memfd, F_ADD_SEALS, F_SEAL_SHRINK), 0);
    assert_int_equal(fy_serve_memory(b->s, b->memfd, &area, 1, &e), 0);
    fy_serve_size(b->s, DISK);
    connect_server(b, words);
    fy_serve_connection(b->s, b->n);
}

static void tear_down(struct bench *b)
{
    end_server(b);
    fy_serve_free(b->s);
    munmap(b->memory, MEMORY);
    close(b->memfd);
}

static void run(struct bench *b, unsigned until)
{
    uint64_t end = fy_now_ns() + 20000000000ull;
    while (b->done < until && fy_serve_turn(b->s)) {
        struct pollfd p = {0};
        p.fd = fy_nbd_fd(b->n, &p.events);
        assert_true(poll(&p, 1, 1000) >= 0);
        if (p.revents)
            assert_true(fy_nbd_ready(b->n, p.revents));
        assert_true(fy_now_ns() < end);
    }
    assert_int_equal(b->done, until);
}

static int one(struct bench *b, const struct fy_blkw_request *r)
{
    struct fy_err e;
    unsigned done = b->done;
    b->err[r->id] = -1;
    if (fy_serve_request(b->s, r, &e) < 0)
        fail_msg("%s", e.text);
    run(b, done + 1);
    return b->err[r->id];
}

static void fill(uint8_t *p, size_t n, unsigned seed)
{
    for (size_t i = 0; i < n; i++)
        p[i] = (uint8_t)((seed = seed * 1103515245u + 12345u) >> 16);
}

static void data(struct bench *b)
{
    static struct fy_blkw_request r;
    static uint8_t want[MIB + 4096], got[MIB + 4096];
    /* in one run; in odd pieces; in a long run that crosses the largest command */
    static const struct fy_blkw_seg ways[][4] = {{{8192, 65536}},
                                                 {{4097, 511}, {12000, 1}, {20000, 3584}},
                                                 {{4096, 3000}, {7096, 1 * MIB + 1096}},
                                                 {{40960, 512}, {8192, 512}, {65536, 65536}, {16384, 1024}}};
    static const unsigned counts[] = {1, 3, 2, 4};
    for (unsigned w = 0; w < 4; w++) {
        uint64_t bytes = 0;
        for (unsigned i = 0; i < counts[w]; i++) {
            fill(b->memory + ways[w][i].at, ways[w][i].len, w * 7 + i);
            memcpy(want + bytes, b->memory + ways[w][i].at, ways[w][i].len);
            bytes += ways[w][i].len;
        }
        r = (struct fy_blkw_request){
            .id = w, .op = FY_BLKW_WRITE, .offset = 512 + w * 2 * MIB, .bytes = bytes, .segs = counts[w]};
        memcpy(r.seg, ways[w], sizeof ways[w]);
        assert_int_equal(one(b, &r), 0);
        memset(b->memory, 0xee, MEMORY);
        r.op = FY_BLKW_READ;
        assert_int_equal(one(b, &r), 0);
        uint64_t at = 0, touched = 0;
        for (unsigned i = 0; i < counts[w]; i++) {
            memcpy(got + at, b->memory + ways[w][i].at, ways[w][i].len);
            memset(b->memory + ways[w][i].at, 0xee, ways[w][i].len);
            at += ways[w][i].len;
        }
        assert_memory_equal(got, want, bytes);
        for (size_t i = 0; i < MEMORY; i++)
            touched += b->memory[i] != 0xee;
        assert_int_equal(touched, 0);
    }
}

static void zeroed(struct bench *b)
{
    static struct fy_blkw_request r;
    r = (struct fy_blkw_request){
        .id = 9, .op = FY_BLKW_WRITE, .offset = MIB, .bytes = 65536, .segs = 1, .seg = {{8192, 65536}}};
    fill(b->memory + 8192, 65536, 3);
    assert_int_equal(one(b, &r), 0);
    struct fy_blkw_request z = {
        .id = 1, .op = FY_BLKW_ZEROES, .flags = FY_BLKW_F_UNMAP, .offset = MIB + 512, .bytes = 4096};
    assert_int_equal(one(b, &z), 0);
    z = (struct fy_blkw_request){.id = 1, .op = FY_BLKW_DISCARD, .offset = MIB + 8192, .bytes = 8192};
    assert_int_equal(one(b, &z), 0);
    z = (struct fy_blkw_request){.id = 1, .op = FY_BLKW_FLUSH};
    assert_int_equal(one(b, &z), 0);
    static uint8_t was[65536];
    memcpy(was, b->memory + 8192, sizeof was);
    r.op = FY_BLKW_READ;
    assert_int_equal(one(b, &r), 0);
    memset(was + 512, 0, 4096);
    assert_memory_equal(b->memory + 8192, was, 8192);
    assert_memory_equal(b->memory + 8192 + 16384, was + 16384, sizeof was - 16384);
}

static const char *const memory_server[] = {"nbdkit", "-s", "--exit-with-parent", "memory", "8M", NULL};
/* It knows neither zeroes nor trims, and takes 64 KiB at most. */
static const char *const poor_server[] = {"nbdkit",
                                          "-s",
                                          "--exit-with-parent",
                                          "--filter=blocksize-policy",
                                          "--filter=nozero",
                                          "memory",
                                          "8M",
                                          "blocksize-minimum=512",
                                          "blocksize-preferred=4096",
                                          "blocksize-maximum=65536",
                                          "blocksize-error-policy=error",
                                          NULL};
static const char *const slow_server[] = {"nbdkit", "-s", "--exit-with-parent", "--filter=delay",
                                          "memory", "8M", "rdelay=60",          NULL};
static const char *const bad_server[] = {"nbdkit", "-s", "--exit-with-parent", "--filter=error",
                                         "memory", "8M", "error-pread=ENOSPC", "error-pread-rate=100%",
                                         NULL};

static void served(void **state)
{
    (void)state;
    static struct bench b;
    struct fy_nbd_facts f;
    set_up(&b, memory_server);
    fy_nbd_facts(b.n, &f);
    assert_int_equal(f.bytes, DISK);
    data(&b);
    zeroed(&b);
    tear_down(&b);
    set_up(&b, poor_server);
    fy_nbd_facts(b.n, &f);
    assert_int_equal(f.max_block, 65536);
    assert_false(f.zero);
    data(&b);
    zeroed(&b);
    tear_down(&b);
}

static void errors(void **state)
{
    (void)state;
    static struct bench b;
    static struct fy_blkw_request r;
    struct fy_err e;
    set_up(&b, bad_server);
    r = (struct fy_blkw_request){
        .id = 5, .op = FY_BLKW_READ, .bytes = 4096, .segs = 1, .seg = {{8192, 4096}}};
    assert_int_equal(one(&b, &r), ENOSPC);
    r.seg[0].at = 0; /* outside of the area */
    assert_int_equal(fy_serve_request(b.s, &r, &e), -1);
    tear_down(&b);
}

/* A connection goes while requests are under way: they are begun again with the next, or forgotten, and none
 * touches memory in between. */
static void broken(void **state)
{
    (void)state;
    static struct bench b;
    static struct fy_blkw_request r;
    struct fy_err e;
    set_up(&b, slow_server);
    for (unsigned i = 0; i < FY_BLKW_IDS; i++) {
        r = (struct fy_blkw_request){.id = i,
                                     .op = FY_BLKW_READ,
                                     .offset = i * 512,
                                     .bytes = 512,
                                     .segs = 1,
                                     .seg = {{8192 + i * 512, 512}}};
        assert_int_equal(fy_serve_request(b.s, &r, &e), 0);
    }
    assert_int_equal(fy_serve_request(b.s, &r, &e), -1); /* the number is taken */
    assert_int_equal(fy_serve_open(b.s), FY_BLKW_IDS);
    memset(b.memory, 0xee, MEMORY);
    end_server(&b);
    assert_int_equal(b.done, 0);
    for (size_t i = 0; i < MEMORY; i++)
        assert_int_equal(b.memory[i], 0xee);
    connect_server(&b, memory_server);
    fy_serve_connection(b.s, b.n);
    run(&b, FY_BLKW_IDS);
    for (unsigned i = 0; i < FY_BLKW_IDS; i++)
        assert_int_equal(b.err[i], 0);
    for (size_t i = 8192; i < 8192 + 512 * FY_BLKW_IDS; i++)
        assert_int_equal(b.memory[i], 0);
    tear_down(&b);
    set_up(&b, slow_server);
    r.id = 0;
    assert_int_equal(fy_serve_request(b.s, &r, &e), 0);
    end_server(&b);
    fy_serve_fail(b.s, 0);
    assert_int_equal(fy_serve_open(b.s), 0);
    assert_int_equal(b.done, 0);
    assert_int_equal(fy_serve_request(b.s, &r, &e), 0);
    fy_serve_fail(b.s, EIO);
    assert_int_equal(b.err[0], EIO);
    fy_serve_free(b.s);
    munmap(b.memory, MEMORY);
    close(b.memfd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(requests), cmocka_unit_test(replies),
                                       cmocka_unit_test(uris),     cmocka_unit_test(headers),
                                       cmocka_unit_test(served),   cmocka_unit_test(errors),
                                       cmocka_unit_test(broken)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
