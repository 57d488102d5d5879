// SPDX-License-Identifier: Apache-2.0
/* The console's log: bounded, nothing but the oldest output is gone, taken up again by another process. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/io.h"
#include "hv/vm/conlog.h"

#define MAX 4096u

static int fds[2];
static struct fy_loop *loop;

static int setup(void **state)
{
    (void)state;
    for (int i = 0; i < 2; i++) {
        char path[] = "/tmp/ferry-conlog-XXXXXX";
        fds[i] = mkstemp(path);
        assert_true(fds[i] >= 0);
        unlink(path);
    }
    loop = fy_loop_new(NULL);
    assert_non_null(loop);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    fy_loop_free(loop);
    fy_close(&fds[0]);
    fy_close(&fds[1]);
    return 0;
}

static size_t size_of(int fd)
{
    struct stat st;
    assert_int_equal(fstat(fd, &st), 0);
    return (size_t)st.st_size;
}

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i % 251);
}

/* One file, then the other, is the end of `total` bytes of output. */
static void expect_end(int older, int newer, size_t total)
{
    static uint8_t buf[2 * MAX];
    size_t a = size_of(older), b = size_of(newer);
    assert_true(a <= MAX && b <= MAX);
    assert_int_equal(fy_pread_all(older, buf, a, 0), 0);
    assert_int_equal(fy_pread_all(newer, buf + a, b, 0), 0);
    for (size_t i = 0; i < a + b; i++)
        assert_int_equal(buf[i], byte_at(total - a - b + i));
}

static void put(struct fy_conlog *l, size_t *total, size_t len)
{
    static uint8_t buf[2 * FY_CONLOG_WAITING];
    for (size_t i = 0; i < len; i++)
        buf[i] = byte_at((*total)++);
    fy_conlog_put(l, buf, len);
}

static void stop(void *arg)
{
    fy_loop_stop(arg);
}

/* What has been posted is carried out. */
static void run_loop(void)
{
    struct fy_err e;
    assert_int_equal(fy_loop_post(loop, stop, loop, &e), 0);
    assert_int_equal(fy_loop_run(loop, &e), 0);
}

static void is_bounded(void **state)
{
    (void)state;
    struct fy_err e;
    struct fy_conlog *l = fy_conlog_new(loop, fds, MAX, &e);
    size_t total = 0;
    for (unsigned i = 0; i < 1000; i++) {
        put(l, &total, 1 + i % 97);
        if (i % 3 == 0)
            fy_conlog_flush(l);
        assert_true(size_of(fds[0]) <= MAX && size_of(fds[1]) <= MAX);
    }
    fy_conlog_flush(l);
    unsigned newer = total / MAX % 2;
    assert_int_equal(size_of(fds[newer]), total % MAX);
    assert_int_equal(size_of(fds[!newer]), MAX);
    expect_end(fds[!newer], fds[newer], total);
    put(l, &total, 5 * MAX + 7); /* more than both hold at once */
    run_loop();
    fy_conlog_free(l);
    newer = total / MAX % 2;
    expect_end(fds[!newer], fds[newer], total);
}

static void goes_on_elsewhere(void **state)
{
    (void)state;
    struct fy_err e;
    size_t total = 0;
    for (unsigned i = 0; i < 60; i++) {
        struct fy_conlog *l = fy_conlog_new(loop, fds, MAX, &e);
        put(l, &total, 300);
        run_loop();
        fy_conlog_free(l);
        unsigned newer = (total - 1) / MAX % 2;
        expect_end(fds[!newer], fds[newer], total);
    }
}

static void what_is_lost_is_said(void **state)
{
    (void)state;
    struct fy_err e;
    struct fy_conlog *l = fy_conlog_new(loop, fds, 2 * FY_CONLOG_WAITING, &e);
    size_t total = 0;
    char text[64] = "";
    put(l, &total, FY_CONLOG_WAITING + 12);
    run_loop();
    fy_conlog_free(l);
    size_t n = size_of(fds[0]);
    assert_true(n > FY_CONLOG_WAITING && n < FY_CONLOG_WAITING + sizeof text);
    assert_int_equal(fy_pread_all(fds[0], (uint8_t *)text, n - FY_CONLOG_WAITING, FY_CONLOG_WAITING), 0);
    assert_string_equal(text, "\n[12 bytes were not logged]\n");
    fy_conlog_put(NULL, (const uint8_t *)text, 1);
}

/* The loop writes it by itself. */
static void the_loop_writes(void **state)
{
    (void)state;
    struct fy_err e;
    struct fy_conlog *l = fy_conlog_new(loop, fds, MAX, &e);
    size_t total = 0;
    put(l, &total, 100);
    put(l, &total, 100);
    assert_int_equal(size_of(fds[0]), 0);
    run_loop();
    assert_int_equal(size_of(fds[0]), 200);
    fy_conlog_free(l);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(is_bounded, setup, teardown),
        cmocka_unit_test_setup_teardown(goes_on_elsewhere, setup, teardown),
        cmocka_unit_test_setup_teardown(what_is_lost_is_said, setup, teardown),
        cmocka_unit_test_setup_teardown(the_loop_writes, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
