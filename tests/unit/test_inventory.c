// SPDX-License-Identifier: Apache-2.0
/* The inventory: what was written is read back by the next daemon, callbacks come in order on the loop's
 * thread, and a full disk fails the write and nothing else. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/loop.h"
#include "hv/host/inventory.h"

struct fixture {
    char dir[64];
    char path[128];
    struct fy_loop *loop;
    unsigned done;
    unsigned wanted;
    int last_code;
    int order[16];
};

static struct fixture *fx;

static int setup(void **state)
{
    (void)state;
    fx = calloc(1, sizeof *fx);
    assert_non_null(fx);
    strcpy(fx->dir, "/tmp/ferry-inventory-XXXXXX");
    assert_non_null(mkdtemp(fx->dir));
    snprintf(fx->path, sizeof fx->path, "%s/inventory.db", fx->dir);
    fx->loop = fy_loop_new(NULL);
    assert_non_null(fx->loop);
    return 0;
}

static int teardown(void **state)
{
    (void)state;
    static const char *const names[] = {"inventory.db", "inventory.db-wal", "inventory.db-shm", "filler"};
    char path[128];
    fy_loop_free(fx->loop);
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        snprintf(path, sizeof path, "%s/%s", fx->dir, names[i]);
        unlink(path);
    }
    rmdir(fx->dir);
    free(fx);
    return 0;
}

static void written(void *arg, const struct fy_err *err)
{
    fx->last_code = err ? err->code : 0;
    if (fx->done < 16)
        fx->order[fx->done] = (int)(intptr_t)arg;
    if (++fx->done == fx->wanted)
        fy_loop_stop(fx->loop);
}

static void await(unsigned n)
{
    fx->wanted = n;
    if (fx->done < n)
        assert_int_equal(fy_loop_run(fx->loop, NULL), 0);
}

static struct inv_guest a_guest(void)
{
    struct inv_guest g = {.uuid = {1, 2, 3},
                          .run_id = {4},
                          .handover = {5},
                          .pid = 77,
                          .state = 3,
                          .exit_status = -1,
                          .changed_ns = 123456789012345ull};
    strcpy(g.name, "g1");
    strcpy(g.report, "it's \"quoted\"; DROP TABLE guests");
    strcpy(g.moved_to, "beta");
    return g;
}

static void test_round_trip(void **state)
{
    (void)state;
    struct inv_dump d;
    struct fyd_inv *inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    assert_int_equal(d.guest_count + d.host_count + d.job_count + d.handover_count, 0);
    struct inv_guest g = a_guest();
    struct inv_host h = {.name = "beta", .address = "10.0.0.2:4747", .sha256 = {9, 8}, .self = true};
    uint8_t report[] = {1, 0, 2};
    struct inv_job j = {.id = {7},
                        .guest = "g1",
                        .kind = "send",
                        .peer = "beta",
                        .state = "failed",
                        .started_ns = 5,
                        .report = report,
                        .report_len = sizeof report};
    struct inv_handover o = {.id = {6},
                             .state = 1,
                             .uuid = {1, 2, 3},
                             .guest = "g1",
                             .peer = "beta",
                             .boot_id = "boot",
                             .worker_pid = 3,
                             .worker_start = 1ull << 40,
                             .changed_ns = 9};
    fyd_inv_put_guest(inv, &g, written, (void *)1);
    fyd_inv_put_host(inv, &h, written, (void *)2);
    fyd_inv_put_job(inv, &j, written, (void *)3);
    fyd_inv_put_handover(inv, &o, written, (void *)4);
    assert_int_equal(fx->done, 0); /* never from within the call */
    await(4);
    for (int i = 0; i < 4; i++)
        assert_int_equal(fx->order[i], i + 1);
    fyd_inv_close(inv);
    inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    assert_int_equal(d.guest_count, 1);
    assert_memory_equal(&d.guests[0], &g, sizeof g);
    assert_int_equal(d.host_count, 1);
    assert_memory_equal(&d.hosts[0], &h, sizeof h);
    assert_int_equal(d.handover_count, 1);
    assert_memory_equal(&d.handovers[0], &o, sizeof o);
    assert_int_equal(d.job_count, 1);
    assert_int_equal(d.jobs[0].report_len, sizeof report);
    assert_memory_equal(d.jobs[0].report, report, sizeof report);
    assert_string_equal(d.jobs[0].state, "failed");
    fyd_inv_dump_free(&d);
    g.state = 7;
    fyd_inv_put_guest(inv, &g, NULL, NULL);
    fyd_inv_del_host(inv, "beta", NULL, NULL);
    fyd_inv_del_job(inv, j.id, NULL, NULL);
    fyd_inv_del_handover(inv, o.id, NULL, NULL);
    fyd_inv_close(inv); /* finishes what is queued */
    inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    assert_int_equal(d.guest_count, 1);
    assert_int_equal(d.guests[0].state, 7);
    assert_int_equal(d.host_count + d.job_count + d.handover_count, 0);
    fyd_inv_dump_free(&d);
    fyd_inv_close(inv);
}

static void test_definitions(void **state)
{
    (void)state;
    struct inv_dump d;
    struct fyd_inv *inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    char yaml[] = "name: \"g'1\"\n";
    struct inv_def def = {.name = "g1", .yaml = yaml, .run = {1, 2}, .moved_to = "beta", .changed_ns = 7};
    fyd_inv_put_def(inv, &def, written, (void *)1);
    yaml[0] = 0; /* the call has its own copy */
    await(1);
    assert_int_equal(fx->last_code, 0);
    fyd_inv_close(inv);
    inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    assert_int_equal(d.def_count, 1);
    assert_string_equal(d.defs[0].name, "g1");
    assert_string_equal(d.defs[0].yaml, "name: \"g'1\"\n");
    assert_memory_equal(d.defs[0].run, def.run, FYD_ID_LEN);
    assert_string_equal(d.defs[0].moved_to, "beta");
    assert_int_equal(d.defs[0].changed_ns, 7);
    fyd_inv_dump_free(&d);
    fyd_inv_del_def(inv, "g1", NULL, NULL);
    fyd_inv_close(inv);
    inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    assert_int_equal(d.def_count, 0);
    fyd_inv_dump_free(&d);
    fyd_inv_close(inv);
}

static void test_not_a_database(void **state)
{
    (void)state;
    struct inv_dump d;
    struct fy_err e = {0};
    FILE *f = fopen(fx->path, "w");
    assert_non_null(f);
    for (int i = 0; i < 200; i++)
        fputs("this is no database ", f);
    fclose(f);
    assert_null(fyd_inv_open(fx->loop, fx->path, &d, &e));
    assert_int_equal(e.code, FY_ECORRUPT);
    assert_non_null(strstr(e.text, fx->path));
}

static void test_full_disk(void **state)
{
    (void)state;
    if (mount("tmpfs", fx->dir, "tmpfs", 0, "size=256k") < 0) {
        print_message("cannot mount a small tmpfs here (not root?): skipped\n");
        skip();
    }
    struct inv_dump d;
    struct fyd_inv *inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    struct inv_guest g = a_guest();
    fyd_inv_put_guest(inv, &g, written, NULL);
    await(1);
    assert_int_equal(fx->last_code, 0);
    char filler[128];
    snprintf(filler, sizeof filler, "%s/filler", fx->dir);
    FILE *f = fopen(filler, "w");
    assert_non_null(f);
    setvbuf(f, NULL, _IONBF, 0);
    char block[1024] = {1};
    while (fwrite(block, sizeof block, 1, f) == 1)
        continue;
    fclose(f);
    unsigned n = 1;
    for (int i = 0; i < 200 && fx->last_code == 0; i++) {
        struct inv_guest more = a_guest();
        more.uuid[5] = (uint8_t)(i + 1);
        memset(more.report, 'x', sizeof more.report - 1);
        fyd_inv_put_guest(inv, &more, written, NULL);
        await(++n);
    }
    assert_int_equal(fx->last_code, FY_ERESOURCE);
    unlink(filler);
    /* Room again: writes succeed again, and what was durable is still there. */
    g.state = 9;
    fyd_inv_put_guest(inv, &g, written, NULL);
    await(++n);
    assert_int_equal(fx->last_code, 0);
    fyd_inv_close(inv);
    inv = fyd_inv_open(fx->loop, fx->path, &d, NULL);
    assert_non_null(inv);
    bool found = false;
    for (size_t i = 0; i < d.guest_count; i++)
        found |= !memcmp(d.guests[i].uuid, g.uuid, sizeof g.uuid) && d.guests[i].state == 9;
    assert_true(found);
    fyd_inv_dump_free(&d);
    fyd_inv_close(inv);
    umount(fx->dir);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_round_trip, setup, teardown),
        cmocka_unit_test_setup_teardown(test_definitions, setup, teardown),
        cmocka_unit_test_setup_teardown(test_not_a_database, setup, teardown),
        cmocka_unit_test_setup_teardown(test_full_disk, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
