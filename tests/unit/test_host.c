// SPDX-License-Identifier: Apache-2.0
/* Small parts of ferryd: tokens, prefaces, addresses, the run log, certificate digests, message channels,
 * children. */
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/io.h"
#include "hv/base/msg.h"
#include "hv/host/chan.h"
#include "hv/host/daemon.h"
#include "hv/host/digest.h"
#include "hv/host/engine.h"
#include "hv/host/peers.h"
#include "hv/host/promise.h"
#include "hv/host/runlog.h"
#include "hv/host/spawn.h"
#include "hv/host/token.h"

static void test_token(void **state)
{
    (void)state;
    struct fyd_token t, back;
    char text[FYD_TOKEN_TEXT];
    for (size_t n = 3; n < 40; n++) {
        memset(&t, 0, sizeof t);
        for (int i = 0; i < 32; i++)
            t.digest[i] = (uint8_t)(i * 37 + (int)n);
        memset(t.secret, 0xa5, sizeof t.secret);
        memset(t.address, 'h', n - 2);
        memcpy(t.address + n - 2, ":1", 2);
        fyd_token_format(&t, text);
        assert_int_equal(strspn(text, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"),
                         strlen(text));
        assert_int_equal(fyd_token_parse(text, &back, NULL), 0);
        assert_memory_equal(back.digest, t.digest, 32);
        assert_memory_equal(back.secret, t.secret, 16);
        assert_string_equal(back.address, t.address);
    }
    /* Every cut is refused, or at least is another address; junk is refused. */
    size_t full = strlen(text);
    for (size_t n = 0; n < full; n++) {
        char cut[FYD_TOKEN_TEXT];
        memcpy(cut, text, n);
        cut[n] = 0;
        if (fyd_token_parse(cut, &back, NULL) == 0)
            assert_string_not_equal(back.address, t.address);
    }
    struct fy_err e;
    text[10] = '!';
    assert_int_equal(fyd_token_parse(text, &back, &e), -1);
    assert_int_equal(e.code, FY_EUSAGE);
    char big[4096];
    memset(big, 'A', sizeof big);
    memcpy(big, "fy1_", 4);
    big[sizeof big - 1] = 0;
    assert_int_equal(fyd_token_parse(big, &back, &e), -1);
    assert_int_equal(fyd_token_parse("", &back, &e), -1);
}

static void test_preface(void **state)
{
    (void)state;
    uint8_t buf[FY_PREFACE_LEN] = {0};
    struct fyd_preface p;
    memcpy(buf, FY_PREFACE_MAGIC, 8);
    fy_put16(buf + 8, FY_PREFACE_MIGRATE);
    fy_put16(buf + 10, 3);
    buf[31] = 0x42;
    assert_int_equal(fyd_preface_parse(buf, &p, NULL), 0);
    assert_int_equal(p.channel, 3);
    assert_int_equal(p.id[15], 0x42);
    struct {
        size_t at;
        uint8_t value;
    } const wrong[] = {{0, 'f'}, {7, 0},  {8, 0}, {8, 4}, {9, 1}, {10, FY_CHANNELS_MAX + 1},
                       {11, 1},  {12, 1}, {15, 1}};
    for (size_t i = 0; i < sizeof wrong / sizeof *wrong; i++) {
        uint8_t bad[FY_PREFACE_LEN];
        memcpy(bad, buf, sizeof bad);
        bad[wrong[i].at] = wrong[i].value;
        struct fy_err e = {0};
        assert_int_equal(fyd_preface_parse(bad, &p, &e), -1);
        assert_int_equal(e.code, FY_ECORRUPT);
    }
    fy_put16(buf + 8, FY_PREFACE_PAIR); /* only moves have channels */
    assert_int_equal(fyd_preface_parse(buf, &p, NULL), -1);
}

static void test_address(void **state)
{
    (void)state;
    char host[32];
    char port[8];
    assert_int_equal(fyd_address_split("10.0.0.1:4747", host, sizeof host, port, NULL), 0);
    assert_string_equal(host, "10.0.0.1");
    assert_string_equal(port, "4747");
    assert_int_equal(fyd_address_split("[fe80::1]:9", host, sizeof host, port, NULL), 0);
    assert_string_equal(host, "fe80::1");
    static const char *const bad[] = {"",           ":",       "host",
                                      "host:",      ":1",      "host:x",
                                      "host:65536", "host:1x", "a-host-name-that-is-much-too-long-for-it:1"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_int_equal(fyd_address_split(bad[i], host, sizeof host, port, NULL), -1);
}

static void test_names(void **state)
{
    (void)state;
    assert_true(fyd_name_ok("a"));
    assert_true(fyd_name_ok("web-1.example_x"));
    static const char *const bad[] = {
        "",    ".",        "..",
        "-x",  "a/b",      "a b",
        "a\n", "\xc3\xa4", "0123456789012345678901234567890123456789012345678901234567890123"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++)
        assert_false(fyd_name_ok(bad[i]));
}

static void test_runlog_trim(void **state)
{
    (void)state;
    char path[] = "/tmp/ferry-runlog-XXXXXX";
    struct fyd *d = calloc(1, sizeof *d);
    struct fyd_job *job = calloc(1, sizeof *job);
    struct fyd_ho *ho = calloc(1, sizeof *ho);
    struct stat st;
    assert_true(d && job && ho);
    d->runlog = mkstemp(path);
    unlink(path);
    assert_int_equal(ftruncate(d->runlog, FYD_RUNLOG_MAX), 0);
    fyd_runlog_trim(d);
    assert_int_equal(fstat(d->runlog, &st), 0);
    assert_int_equal(st.st_size, FYD_RUNLOG_MAX); /* not too large yet */
    assert_int_equal(ftruncate(d->runlog, FYD_RUNLOG_MAX + 1), 0);
    d->jobs = job;
    d->handovers = ho;
    static const unsigned open_states[] = {FY_HO_NONE, FY_HO_HANDING, FY_HO_INCOMING};
    for (unsigned i = 0; i < 4; i++) {
        job->finished = i < 3;
        ho->m.journal = i < 3 ? open_states[i] : FY_HO_DONE;
        fyd_runlog_trim(d);
        assert_int_equal(fstat(d->runlog, &st), 0);
        assert_int_equal(st.st_size, FYD_RUNLOG_MAX + 1); /* may still be asked */
    }
    job->finished = true;
    fyd_runlog_trim(d);
    assert_int_equal(fstat(d->runlog, &st), 0);
    assert_int_equal(st.st_size, 0);
    close(d->runlog);
    free(ho);
    free(job);
    free(d);
}

static void test_runlog(void **state)
{
    (void)state;
    static const char id[] = "00112233445566778899aabbccddeeff";
    static const char text[] =
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa enter 1 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb -\n"
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa leave 2 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb "
        "00112233445566778899aabbccddeeff\n"
        "00112233445566778899aabbccddeeff enter 3 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb -\n";
    static const char ran[] = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa enter 1 bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb "
                              "00112233445566778899aabbccddeeff\n";
    assert_false(fyd_runlog_has_enter(text, sizeof text - 1, id));
    assert_false(fyd_runlog_has_enter("", 0, id));
    assert_true(fyd_runlog_has_enter(ran, sizeof ran - 1, id));
    assert_true(fyd_runlog_has_enter(ran, sizeof ran - 2, id)); /* the last line without its end */
    assert_false(fyd_runlog_has_enter(ran, sizeof ran - 3, id));
    char both[sizeof text + sizeof ran];
    memcpy(both, text, sizeof text - 1);
    memcpy(both + sizeof text - 1, ran, sizeof ran);
    assert_true(fyd_runlog_has_enter(both, strlen(both), id));
}

static void test_digest(void **state)
{
    (void)state;
    /* FIPS 180-4's "abc", whose base64 is YWJj */
    static const uint8_t abc[32] = {0xba, 0x78, 0x16, 0xbf, 0x8f, 0x01, 0xcf, 0xea, 0x41, 0x41, 0x40,
                                    0xde, 0x5d, 0xae, 0x22, 0x23, 0xb0, 0x03, 0x61, 0xa3, 0x96, 0x17,
                                    0x7a, 0x9c, 0xb4, 0x10, 0xff, 0x61, 0xf2, 0x00, 0x15, 0xad};
    static const char pem[] = "x\n-----BEGIN CERTIFICATE-----\nYWJj\n-----END CERTIFICATE-----\n";
    uint8_t out[32];
    assert_int_equal(fyd_certificate_digest(pem, sizeof pem - 1, out, NULL), 0);
    assert_memory_equal(out, abc, 32);
    assert_int_equal(fyd_certificate_digest(pem, 30, out, NULL), -1);
    assert_int_equal(fyd_certificate_digest("", 0, out, NULL), -1);
}

struct heard {
    struct fy_loop *loop;
    unsigned messages, bytes, fds;
    bool closed;
};

static void on_msg(void *arg, const uint8_t *buf, size_t len, int *fds, int nfds)
{
    (void)fds;
    struct heard *h = arg;
    Ferry__ApiText *t = ferry__api_text__unpack(NULL, len, buf);
    assert_non_null(t);
    h->messages++;
    h->bytes += (unsigned)strlen(t->text);
    h->fds += (unsigned)nfds;
    ferry__api_text__free_unpacked(t, NULL);
}

static void on_closed(void *arg, const struct fy_err *why)
{
    (void)why;
    struct heard *h = arg;
    h->closed = true;
    fy_loop_stop(h->loop);
}

/* More than the socket holds is queued, arrives whole and in order, with its descriptors, and then the end.
 */
static void test_channel(void **state)
{
    (void)state;
    int sv[2];
    struct heard h = {.loop = fy_loop_new(NULL)};
    static char text[60000];
    memset(text, 'x', sizeof text - 1);
    assert_int_equal(fy_msg_pair(sv, NULL), 0);
    struct fyd_chan *a = fyd_chan_new(h.loop, sv[0], on_msg, on_closed, &h, NULL);
    struct fyd_chan *b = fyd_chan_new(h.loop, sv[1], on_msg, on_closed, &h, NULL);
    assert_non_null(a);
    assert_non_null(b);
    Ferry__ApiText t = FERRY__API_TEXT__INIT;
    t.text = text;
    int null = open("/dev/null", O_RDONLY | O_CLOEXEC);
    unsigned sent = 0;
    struct fy_err e = {0};
    while (fyd_chan_send(a, &t.base, &null, 1, &e) == 0)
        sent++;
    assert_int_equal(e.code, FY_EUNREACHABLE); /* the queue's limit */
    assert_true(sent > FYD_CHAN_QUEUE / sizeof text);
    close(null);
    fyd_chan_close_when_sent(a);
    assert_int_equal(fy_loop_run(h.loop, NULL), 0);
    assert_true(h.closed);
    assert_int_equal(h.messages, sent);
    assert_int_equal(h.fds, sent);
    assert_int_equal(h.bytes, sent * (sizeof text - 1));
    fyd_chan_free(b);
    fy_loop_free(h.loop);
}

/* A child has the descriptors that it is given and no other. */
static void test_spawn(void **state)
{
    (void)state;
    int out[2];
    assert_int_equal(pipe(out), 0); /* inheritable on purpose */
    static const char *const argv[] = {"sh", "-c", "ls /proc/self/fd | tr '\\n' ' '; cat <&4", NULL};
    char name[] = "/tmp/ferry-spawn-XXXXXX";
    int file = mkstemp(name);
    assert_true(file >= 0);
    unlink(name);
    assert_int_equal(write(file, "payload", 7), 7);
    assert_int_equal(lseek(file, 0, SEEK_SET), 0);
    struct fyd_spawn s = {.path = "/bin/sh",
                          .argv = argv,
                          .fds = {out[1], file},
                          .nfds = 2,
                          .out_fd = out[1],
                          .log_fd = -1,
                          .session = true};
    pid_t pid;
    int pidfd = -1;
    assert_int_equal(fyd_spawn(&s, &pid, &pidfd, NULL), 0);
    close(out[1]);
    char text[256];
    size_t have = 0;
    ssize_t n;
    while (have < sizeof text - 1 && (n = read(out[0], text + have, sizeof text - 1 - have)) > 0)
        have += (size_t)n;
    text[have] = 0;
    assert_string_equal(text, "0 1 2 3 4 5 payload"); /* 5: ls's own */
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    char how[96];
    bool clean;
    assert_true(fyd_reap(pidfd, how, sizeof how, &clean));
    assert_true(clean);
    close(pidfd);
    close(file);
    close(out[0]);
    struct fy_err e = {0};
    s.path = "/nonexistent/ferry";
    s.nfds = 0;
    s.out_fd = 0;
    assert_int_equal(fyd_spawn(&s, &pid, &pidfd, &e), -1);
    assert_non_null(strstr(e.text, "/nonexistent/ferry"));
}

static void test_kill(void **state)
{
    (void)state;
    static const char *const argv[] = {"sleep", "60", NULL};
    struct fyd_spawn s = {.path = "/bin/sleep", .argv = argv, .log_fd = -1};
    pid_t pid;
    int pidfd = -1;
    char how[96];
    bool clean;
    assert_int_equal(fyd_spawn(&s, &pid, &pidfd, NULL), 0);
    assert_false(fyd_reap(pidfd, how, sizeof how, &clean));
    uint64_t start = fyd_start_time(pid);
    assert_true(start > 0);
    int again = fyd_pidfd(pid, start, NULL);
    assert_true(again >= 0);
    assert_int_equal(fyd_pidfd(pid, start + 1, NULL), -1); /* another process by the same number */
    fyd_kill(again);
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, 5000), 1);
    assert_true(fyd_reap(pidfd, how, sizeof how, &clean));
    assert_false(clean);
    assert_non_null(strstr(how, "signal 9"));
    close(pidfd);
    close(again);
}

static void test_engine(void **state)
{
    (void)state;
    struct fyd_engine g;
    struct fy_err e;
    static const struct {
        const char *text, *name;
        uint32_t ns;
        uint64_t seed;
    } good[] = {
        {"", "auto", 0, 0},
        {"auto", "auto", 0, 0},
        {"kvm", "kvm", 0, 0},
        {"soft", "soft", 0, 0},
        {"soft,icount=1", "soft", 1, 0},
        {"soft,icount=1000000,seed=0xffffffffffffffff", "soft", 1000000, UINT64_MAX},
        {"soft,seed=3,icount=10", "soft", 10, 3},
    };
    static const char *const bad[] = {
        "kvmm",
        "soft,",
        "soft,icount",
        "soft,icount=",
        "soft,icount=0",
        "kvm,icount=1",
        "auto,icount=1",
        ",icount=1",
        "soft,icount=-1",
        "soft,icount=1000001",
        "soft,icount=1x",
        "soft,seed=1",
        "soft,icount=1,seed=",
        "soft,icount=1,seed=18446744073709551616",
        "soft,icount= 1",
        "soft,shift=1",
        "soft,icount=1,seed=0,icount=2,seed=11111111111111111111111111",
    };
    for (size_t i = 0; i < sizeof good / sizeof *good; i++) {
        assert_int_equal(fyd_engine_parse(good[i].text, &g, &e), 0);
        assert_string_equal(g.name, good[i].name);
        assert_int_equal(g.icount_ns, good[i].ns);
        assert_true(g.icount_seed == good[i].seed);
        assert_int_equal(fyd_engine_fits(&g, 0, &e), 0);
        assert_int_equal(fyd_engine_fits(&g, 1, &e), 0);
        assert_int_equal(fyd_engine_fits(&g, 2, &e), good[i].ns ? -1 : 0);
    }
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        memset(&g, 0xa5, sizeof g);
        const struct fyd_engine was = g;
        if (fyd_engine_parse(bad[i], &g, &e) != -1)
            fail_msg("%s is taken", bad[i]);
        assert_int_equal(e.code, FY_EUSAGE);
        assert_memory_equal(&g, &was, sizeof g);
    }
}

static void put_file(const char *top, const char *name, const char *text)
{
    char path[256];
    snprintf(path, sizeof path, "%s/%s", top, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

static void test_cgroup_limit(void **state)
{
    (void)state;
    char top[] = "/tmp/ferry-cgroup.XXXXXX", path[256];
    assert_non_null(mkdtemp(top));
    static const char *const folders[] = {"a", "a/b", "memory", "memory/c"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", top, folders[i]);
        assert_int_equal(mkdir(path, 0700), 0);
    }
    assert_true(fyd_cgroup_memory_limit("", top) == UINT64_MAX);
    assert_true(fyd_cgroup_memory_limit("0::/a/b\n", top) == UINT64_MAX);
    put_file(top, "a/b/memory.max", "max\n");
    assert_true(fyd_cgroup_memory_limit("0::/a/b\n", top) == UINT64_MAX);
    put_file(top, "a/memory.max", "3000000\n"); /* one above counts too */
    assert_true(fyd_cgroup_memory_limit("0::/a/b\n", top) == 3000000);
    put_file(top, "memory/c/memory.limit_in_bytes", "9223372036854771712\n");
    assert_true(fyd_cgroup_memory_limit("5:cpu:/\n4:memory:/c\n0::/\n", top) == UINT64_MAX);
    put_file(top, "memory/memory.limit_in_bytes", "2000000\n");
    assert_true(fyd_cgroup_memory_limit("4:memory:/c\n0::/a/b\n", top) == 2000000);
    assert_true(fyd_cgroup_memory_limit("nonsense\n:\n4:memory", top) == UINT64_MAX);
    static const char *const files[] = {"a/b/memory.max", "a/memory.max", "memory/c/memory.limit_in_bytes",
                                        "memory/memory.limit_in_bytes"};
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", top, files[i]);
        unlink(path);
    }
    for (size_t i = 4; i-- > 0;) {
        snprintf(path, sizeof path, "%s/%s", top, folders[i]);
        rmdir(path);
    }
    rmdir(top);
}

static void test_promise(void **state)
{
    (void)state;
    Ferry__Machine m = FERRY__MACHINE__INIT;
    Ferry__BootImages b = FERRY__BOOT_IMAGES__INIT;
    m.memory_bytes = 512u << 20;
    assert_true(fyd_promise_of(&m) == (512u << 20) + (2u << 20) + (16u << 20));
    m.images = &b;
    b.area_bytes = 256u << 20;
    assert_true(fyd_promise_of(&m) == (768u << 20) + (3u << 20) + (16u << 20));
    m.hugepages = true;
    assert_true(fyd_promise_of(&m) == (3u << 20) + (16u << 20));
    static const char *const bad[] = {"", "0.99", "101", "nan", "inf", "1x", "-2"};
    double v = 0;
    for (size_t i = 0; i < 7; i++)
        assert_int_equal(fyd_ratio_parse(bad[i], &v), -1);
    assert_int_equal(fyd_ratio_parse("1.5", &v), 0);
    assert_true(v > 1.49 && v < 1.51);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_token),   cmocka_unit_test(test_preface), cmocka_unit_test(test_address),
        cmocka_unit_test(test_names),   cmocka_unit_test(test_runlog),  cmocka_unit_test(test_runlog_trim),
        cmocka_unit_test(test_digest),  cmocka_unit_test(test_engine),  cmocka_unit_test(test_channel),
        cmocka_unit_test(test_spawn),   cmocka_unit_test(test_kill),    cmocka_unit_test(test_cgroup_limit),
        cmocka_unit_test(test_promise),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
