// SPDX-License-Identifier: Apache-2.0
/* ferry-hv on the real /dev/kvm with tiny guests: run, pause, track, save, load, hand over, end. */
#include <poll.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "hv/base/bitmap.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/msg.h"
#include "tests/engine/hvproc.h"

#define PAGES 64
#define FIRST_PAGE 512
#define GPA 0x200000

extern const uint8_t tiny_count[], tiny_count_end[], tiny_exit[], tiny_exit_end[], tiny_crash[],
    tiny_crash_end[], tiny_reset[], tiny_reset_end[];

static const char *program;

static const uint8_t id_a[16] = "hand-over id A!", id_b[16] = "hand-over id B!";

#define START(p, ...)                                                                                        \
    struct hvproc *p = hvproc_start(program, &(struct hvproc_options){__VA_ARGS__});                         \
    if (!p) {                                                                                                \
        print_message("skipped: /dev/kvm cannot be opened\n");                                               \
        skip();                                                                                              \
    }                                                                                                        \
    if (p->ready->code)                                                                                      \
    fail_msg("ferry-hv: %s", p->ready->text)

#define CODE(name) .code = name, .code_len = (size_t)(name##_end - name)

#define OK(call)                                                                                             \
    do {                                                                                                     \
        struct fy_err err_;                                                                                  \
        struct fy_err *e = &err_;                                                                            \
        if ((call) < 0)                                                                                      \
            fail_msg("%s: %s", #call, e->text);                                                              \
    } while (0)

static uint32_t *map_memory(struct hvproc *p, size_t bytes)
{
    void *m = mmap(NULL, bytes, PROT_READ, MAP_SHARED, p->mem_fd, 0);
    assert_true(m != MAP_FAILED);
    return m;
}

/* Wait until the counting guest has begun pass `n`. */
static void await_pass(const uint32_t *mem, uint32_t n)
{
    uint64_t end = fy_now_ns() + 20000000000ull;
    while (__atomic_load_n(&mem[GPA / 4], __ATOMIC_RELAXED) < n)
        if (fy_now_ns() > end)
            fail_msg("the guest does not count: %u", mem[GPA / 4]);
}

/* The paused counting guest's pages: c up to some page, c - 1 from there on. */
static uint32_t check_pages(const uint32_t *mem)
{
    uint32_t c = mem[GPA / 4];
    bool fell = false;
    for (int i = 0; i < PAGES; i++) {
        uint32_t v = mem[GPA / 4 + i * 1024];
        fell |= v == c - 1;
        assert_int_equal(v, fell ? c - 1 : c);
    }
    return c;
}

static int call(struct fy_ctl *c, Ferry__Request *q, struct fy_err *e)
{
    Ferry__ControlOut *out;
    if (fy_ctl_call(c, q, NULL, 0, &out, NULL, NULL, e) < 0)
        return -1;
    ferry__control_out__free_unpacked(out, NULL);
    return 0;
}

static int do_run(struct fy_ctl *c, const uint8_t id[16], bool paused, struct fy_err *e)
{
    Ferry__RunRequest r = FERRY__RUN_REQUEST__INIT;
    Ferry__Request q = FERRY__REQUEST__INIT;
    r.handover_id = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id, .len = 16};
    r.paused = paused;
    q.op_case = FERRY__REQUEST__OP_RUN;
    q.run = &r;
    return call(c, &q, e);
}

static int do_resolve(struct fy_ctl *c, const uint8_t id[16], bool here, struct fy_err *e)
{
    Ferry__ResolveRequest r = FERRY__RESOLVE_REQUEST__INIT;
    Ferry__Request q = FERRY__REQUEST__INIT;
    r.handover_id = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id, .len = 16};
    r.run_here = here;
    q.op_case = FERRY__REQUEST__OP_RESOLVE;
    q.resolve = &r;
    return call(c, &q, e);
}

static int do_quit(struct fy_ctl *c, bool discard, struct fy_err *e)
{
    Ferry__QuitRequest r = FERRY__QUIT_REQUEST__INIT;
    Ferry__Request q = FERRY__REQUEST__INIT;
    r.discard = discard;
    q.op_case = FERRY__REQUEST__OP_QUIT;
    q.quit = &r;
    return call(c, &q, e);
}

static void test_run_and_pause(void **state)
{
    (void)state;
    START(p, CODE(tiny_count));
    uint32_t *mem = map_memory(p, 4 << 20);
    print_message("ready after %.2f ms\n", (double)p->ready_ns / 1e6);
    await_pass(mem, 3);
    for (int i = 0; i < 20; i++) {
        uint64_t ns;
        OK(fy_ctl_pause(p->ctl, &ns, e));
        uint32_t c = check_pages(mem);
        usleep(2000);
        assert_int_equal(check_pages(mem), c);
        OK(fy_ctl_resume(p->ctl, e));
        await_pass(mem, c + 1);
    }
    /* A lease ends with its connection. */
    struct fy_ctl *other = hvproc_connect(p);
    OK(fy_ctl_pause(other, NULL, e));
    assert_true(hvproc_await(p, FERRY__GUEST_STATE__GUEST_PAUSED));
    fy_ctl_free(other);
    assert_true(hvproc_await(p, FERRY__GUEST_STATE__GUEST_RUNNING));
    struct fy_err err;
    assert_int_equal(do_quit(p->ctl, false, &err), -1);
    assert_int_equal(err.code, FY_ESTATE);
    OK(do_quit(p->ctl, true, e));
    assert_int_equal(hvproc_wait(p), 0);
    munmap(mem, 4 << 20);
    hvproc_end(p);
}

static void test_exit_status(void **state)
{
    (void)state;
    START(p, CODE(tiny_exit), .debug_exit = true);
    Ferry__ControlOut *hold;
    assert_true(hvproc_await(p, FERRY__GUEST_STATE__GUEST_STOPPED));
    assert_int_equal(hvproc_status(p, &hold)->exit_status, 43);
    ferry__control_out__free_unpacked(hold, NULL);
    OK(do_quit(p->ctl, false, e));
    assert_int_equal(hvproc_wait(p), 0);
    hvproc_end(p);
}

static void test_crash_report(void **state)
{
    (void)state;
    START(p, CODE(tiny_crash));
    Ferry__ControlOut *hold;
    assert_true(hvproc_await(p, FERRY__GUEST_STATE__GUEST_CRASHED));
    const char *report = hvproc_status(p, &hold)->report;
    assert_non_null(strstr(report, "triple fault"));
    assert_non_null(strstr(report, "bytes at rip:"));
    if (!strstr(report, "KVM has reset this vCPU")) {
        assert_non_null(strstr(report, "rip 00000000001000"));
        assert_non_null(strstr(report, "rax 00000000deadbeef"));
    }
    ferry__control_out__free_unpacked(hold, NULL);
    hvproc_end(p);
}

static void test_reset(void **state)
{
    (void)state;
    START(p, CODE(tiny_reset), .debug_exit = true);
    Ferry__ControlOut *hold;
    assert_true(hvproc_await(p, FERRY__GUEST_STATE__GUEST_STOPPED));
    assert_int_equal(hvproc_status(p, &hold)->exit_status, 11);
    ferry__control_out__free_unpacked(hold, NULL);
    hvproc_end(p);
}

/* A page set aside by takes alone must, with the guest paused, equal the guest's. */
static void check_tracking(uint32_t ring)
{
    START(p, CODE(tiny_count), .dirty_ring = ring);
    uint32_t *mem = map_memory(p, 4 << 20);
    uint32_t *copy = calloc(PAGES, 4);
    uint32_t tracker;
    uint64_t pages, dirty, remaining;
    int fd;
    await_pass(mem, 2);
    OK(fy_ctl_tracker_open(p->ctl, "test", true, &tracker, &pages, &fd, e));
    assert_int_equal(pages, (64 << 20) / 4096);
    uint64_t *bits = mmap(NULL, pages / 8, PROT_READ, MAP_SHARED, fd, 0);
    OK(fy_ctl_tracker_take(p->ctl, tracker, 0, pages, true, &dirty, &remaining, e));
    assert_int_equal(dirty, pages);
    assert_int_equal(remaining, 0);
    uint64_t takes = 0, taken = 0;
    for (int round = 0; round < 60; round++) {
        bool last = round == 59;
        if (last)
            OK(fy_ctl_pause(p->ctl, NULL, e));
        if (round) {
            uint64_t t = fy_now_ns();
            OK(fy_ctl_tracker_take(p->ctl, tracker, FIRST_PAGE, PAGES, true, &dirty, &remaining, e));
            takes += fy_now_ns() - t;
            taken += dirty;
        }
        for (int i = 0; i < PAGES; i++)
            if (fy_bit_test(bits, FIRST_PAGE + (unsigned)i))
                copy[i] = mem[GPA / 4 + i * 1024];
        OK(fy_ctl_tracker_done(p->ctl, tracker, e));
        if (!last)
            await_pass(mem, mem[GPA / 4] + (round & 1));
    }
    check_pages(mem);
    for (int i = 0; i < PAGES; i++)
        assert_int_equal(copy[i], mem[GPA / 4 + i * 1024]);
    /* The ring, and only it, knows who wrote. */
    Ferry__TrackerCountRequest cr = FERRY__TRACKER_COUNT_REQUEST__INIT;
    Ferry__Request q = FERRY__REQUEST__INIT;
    Ferry__ControlOut *out;
    cr.tracker = tracker;
    q.op_case = FERRY__REQUEST__OP_TRACKER_COUNT;
    q.tracker_count = &cr;
    OK(fy_ctl_call(p->ctl, &q, NULL, 0, &out, NULL, NULL, e));
    assert_int_equal(out->response->tracker_count->n_vcpu_dirty, ring ? 1 : 0);
    if (ring)
        assert_true(out->response->tracker_count->vcpu_dirty[0] >= taken);
    ferry__control_out__free_unpacked(out, NULL);
    print_message("a take took %.1f us, %.1f pages\n", (double)takes / 59e3, (double)taken / 59);
    munmap(bits, pages / 8);
    close(fd);
    munmap(mem, 4 << 20);
    free(copy);
    hvproc_end(p);
}

static void test_tracking_bitmap(void **state)
{
    (void)state;
    check_tracking(0);
}

static void test_tracking_ring(void **state)
{
    (void)state;
    check_tracking(1024);
}

static void copy_memory(struct hvproc *from, struct hvproc *to, size_t bytes)
{
    uint8_t *a = mmap(NULL, bytes, PROT_READ, MAP_SHARED, from->mem_fd, 0);
    assert_true(a != MAP_FAILED);
    assert_int_equal(fy_pwrite_all(to->mem_fd, a, bytes, 0), 0);
    munmap(a, bytes);
}

static struct hvproc *start_incoming(struct hvproc *src, const char *fault, bool bad_runlog)
{
    struct fy_err e;
    Ferry__ControlOut *out;
    assert_int_equal(fy_ctl_describe(src->ctl, &out, &e), 0);
    struct hvproc *dst = hvproc_start(
        program, &(struct hvproc_options){
                     .machine = out->response->describe->machine, .fault = fault, .bad_runlog = bad_runlog});
    ferry__control_out__free_unpacked(out, NULL);
    assert_non_null(dst);
    if (dst->ready->code)
        fail_msg("incoming: %s", dst->ready->text);
    return dst;
}

static void test_move(void **state)
{
    (void)state;
    START(src, CODE(tiny_count), .vcpus = 2);
    uint32_t *mem = map_memory(src, 4 << 20);
    await_pass(mem, 3);
    for (int hop = 0; hop < 4; hop++) {
        struct hvproc *dst = start_incoming(src, NULL, false);
        struct fy_err err;
        uint64_t bytes;
        int fd;
        assert_int_equal(do_run(dst->ctl, id_a, false, &err), -1);
        uint64_t start = fy_now_ns();
        OK(fy_ctl_pause(src->ctl, NULL, e));
        uint32_t c = check_pages(mem);
        OK(fy_ctl_save_state(src->ctl, &fd, &bytes, e));
        uint64_t saved = fy_now_ns();
        copy_memory(src, dst, 4 << 20);
        char warning[FY_ERR_TEXT];
        uint64_t load = fy_now_ns();
        OK(fy_ctl_load_state(dst->ctl, fd, bytes, warning, e));
        uint64_t loaded = fy_now_ns();
        close(fd);
        assert_string_equal(warning, "");
        /* Latched: neither resume nor the end of the connection continues it. */
        OK(fy_ctl_latch(src->ctl, id_a, e));
        assert_int_equal(fy_ctl_resume(src->ctl, &err), -1);
        assert_int_equal(err.code, FY_ESTATE);
        OK(do_run(dst->ctl, id_a, false, e));
        print_message("state of %llu bytes: save %.2f ms, load %.2f ms, run %.2f ms\n",
                      (unsigned long long)bytes, (double)(saved - start) / 1e6, (double)(loaded - load) / 1e6,
                      (double)(fy_now_ns() - loaded) / 1e6);
        OK(do_run(dst->ctl, id_a, false, e));
        assert_int_equal(do_run(dst->ctl, id_b, false, &err), -1);
        assert_int_equal(do_resolve(dst->ctl, id_a, false, &err), -1);
        assert_int_equal(err.code, FY_ESTATE);
        assert_int_equal(do_resolve(src->ctl, id_b, false, &err), -1);
        OK(do_resolve(src->ctl, id_a, false, e));
        assert_int_equal(hvproc_wait(src), 0);
        munmap(mem, 4 << 20);
        hvproc_end(src);
        src = dst;
        mem = map_memory(src, 4 << 20);
        await_pass(mem, c + 2);
    }
    munmap(mem, 4 << 20);
    hvproc_end(src);
}

static void test_latch_and_back(void **state)
{
    (void)state;
    START(p, CODE(tiny_count));
    uint32_t *mem = map_memory(p, 4 << 20);
    struct fy_err err;
    await_pass(mem, 2);
    assert_int_equal(fy_ctl_latch(p->ctl, id_a, &err), -1);
    struct fy_ctl *worker = hvproc_connect(p);
    OK(fy_ctl_pause(worker, NULL, e));
    OK(fy_ctl_latch(worker, id_a, e));
    OK(fy_ctl_latch(worker, id_a, e));
    fy_ctl_free(worker);
    usleep(20000);
    uint32_t c = check_pages(mem);
    assert_true(hvproc_await(p, FERRY__GUEST_STATE__GUEST_HANDED_OVER));
    assert_int_equal(check_pages(mem), c);
    OK(do_resolve(p->ctl, id_a, true, e));
    OK(do_resolve(p->ctl, id_a, true, e));
    await_pass(mem, c + 2);
    assert_int_equal(do_resolve(p->ctl, id_a, false, &err), -1);
    munmap(mem, 4 << 20);
    hvproc_end(p);
}

static void test_bad_state(void **state)
{
    (void)state;
    START(src, CODE(tiny_count));
    uint64_t bytes;
    int fd;
    struct fy_err err;
    OK(fy_ctl_pause(src->ctl, NULL, e));
    OK(fy_ctl_save_state(src->ctl, &fd, &bytes, e));
    uint8_t *good = malloc(bytes);
    assert_int_equal(fy_pread_all(fd, good, bytes, 0), 0);
    close(fd);
    struct hvproc *dst = start_incoming(src, NULL, false);
    char warning[FY_ERR_TEXT];
    unsigned refused = 0;
    for (uint64_t n = 1; n < bytes; n += 97) {
        int bad = memfd_create("bad", MFD_CLOEXEC);
        assert_int_equal(fy_pwrite_all(bad, good, n, 0), 0);
        if (fy_ctl_load_state(dst->ctl, bad, n, warning, &err) < 0)
            refused++;
        else
            fail_msg("state cut at %llu of %llu was loaded", (unsigned long long)n,
                     (unsigned long long)bytes);
        close(bad);
        assert_int_equal(do_run(dst->ctl, id_a, false, &err), -1);
    }
    print_message("%u cut states refused\n", refused);
    OK(do_resolve(dst->ctl, id_a, false, e));
    assert_int_equal(hvproc_wait(dst), 0);
    free(good);
    hvproc_end(dst);
    hvproc_end(src);
}

static void test_refusals(void **state)
{
    (void)state;
    struct hvproc *p =
        hvproc_start(program, &(struct hvproc_options){CODE(tiny_count), .model = "x86-64-v9"});
    if (!p)
        skip();
    assert_int_equal(p->ready->code, FY_EUSAGE);
    hvproc_end(p);
    p = hvproc_start(program, &(struct hvproc_options){CODE(tiny_count), .vcpus = 65, .memory = 63ull << 20});
    assert_int_equal(p->ready->code, FY_EREFUSED);
    assert_non_null(strstr(p->ready->text, "65 vCPUs"));
    assert_non_null(strstr(p->ready->text, "multiple of 2 MiB"));
    hvproc_end(p);
}

static void test_run_log(void **state)
{
    (void)state;
    START(p, CODE(tiny_count));
    OK(fy_ctl_pause(p->ctl, NULL, e));
    OK(fy_ctl_resume(p->ctl, e));
    OK(fy_ctl_pause(p->ctl, NULL, e));
    char text[1024], run[33], what[8], uuid[33], id[33];
    long n = pread(p->runlog_fd, text, sizeof text - 1, 0);
    assert_true(n > 0);
    text[n] = 0;
    unsigned long long at, last = 0;
    int lines = 0;
    for (char *save = NULL, *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
        assert_int_equal(sscanf(l, "%32s %7s %llu %32s %32s", run, what, &at, uuid, id), 5);
        assert_string_equal(what, lines % 2 ? "leave" : "enter");
        assert_string_equal(id, "-");
        assert_true(at >= last);
        last = at;
        lines++;
    }
    assert_int_equal(lines, 4);
    hvproc_end(p);
}

/* A guest of 64 GiB, of which next to nothing is touched: start, track, pause, save. */
static void test_large(void **state)
{
    (void)state;
    START(p, CODE(tiny_count), .memory = 1ull << 36);
    print_message("64 GiB: ready after %.2f ms\n", (double)p->ready_ns / 1e6);
    uint32_t *mem = map_memory(p, 4 << 20);
    uint32_t tracker;
    uint64_t pages, dirty, remaining, t[6];
    int fd;
    await_pass(mem, 2);
    t[0] = fy_now_ns();
    OK(fy_ctl_tracker_open(p->ctl, "test", true, &tracker, &pages, &fd, e));
    t[1] = fy_now_ns();
    OK(fy_ctl_tracker_take(p->ctl, tracker, 0, pages, true, &dirty, &remaining, e));
    t[2] = fy_now_ns();
    assert_int_equal(dirty, 1ull << 24);
    OK(fy_ctl_tracker_take(p->ctl, tracker, 0, 4096, true, &dirty, &remaining, e));
    t[3] = fy_now_ns();
    OK(fy_ctl_tracker_take(p->ctl, tracker, 0, 4096, false, &dirty, &remaining, e));
    t[4] = fy_now_ns();
    assert_true(dirty <= PAGES);
    OK(fy_ctl_tracker_done(p->ctl, tracker, e));
    OK(fy_ctl_pause(p->ctl, NULL, e));
    t[5] = fy_now_ns();
    print_message("64 GiB: open %.1f ms, first take of all %.1f, take of 16 MiB with fetch %.2f, without "
                  "%.3f, pause %.2f\n",
                  (double)(t[1] - t[0]) / 1e6, (double)(t[2] - t[1]) / 1e6, (double)(t[3] - t[2]) / 1e6,
                  (double)(t[4] - t[3]) / 1e6, (double)(t[5] - t[4]) / 1e6);
    close(fd);
    munmap(mem, 4 << 20);
    hvproc_end(p);
}

static void load_from(struct hvproc *src, struct hvproc *dst)
{
    char warning[FY_ERR_TEXT];
    uint64_t bytes;
    int fd;
    OK(fy_ctl_pause(src->ctl, NULL, e));
    OK(fy_ctl_save_state(src->ctl, &fd, &bytes, e));
    copy_memory(src, dst, 4 << 20);
    OK(fy_ctl_load_state(dst->ctl, fd, bytes, warning, e));
    close(fd);
}

/* No evidence, no run. */
static void test_no_run_without_log(void **state)
{
    (void)state;
    START(src, CODE(tiny_count));
    struct fy_err err;
    struct hvproc *dst = start_incoming(src, NULL, true);
    load_from(src, dst);
    assert_int_equal(do_run(dst->ctl, id_a, false, &err), -1);
    assert_int_equal(err.code, FY_ERESOURCE);
    assert_true(hvproc_await(dst, FERRY__GUEST_STATE__GUEST_INCOMING));
    OK(do_resolve(dst->ctl, id_a, false, e));
    assert_int_equal(hvproc_wait(dst), 0);
    hvproc_end(dst);
    hvproc_end(src);
}

/* Fault points of both hypervisors: the error is answered and the guest is where the table says. */
static void test_fault_points(void **state)
{
    (void)state;
    struct fy_err err;
    START(src, CODE(tiny_count), .fault = "81:fail");
    struct hvproc *dst = start_incoming(src, "83:fail,84:fail", false);
    uint32_t *mem = map_memory(dst, 4 << 20);
    load_from(src, dst);
    assert_int_equal(fy_ctl_latch(src->ctl, id_a, &err), -1);
    assert_true(hvproc_await(src, FERRY__GUEST_STATE__GUEST_HANDED_OVER));
    assert_int_equal(do_run(dst->ctl, id_a, false, &err), -1);
    assert_true(hvproc_await(dst, FERRY__GUEST_STATE__GUEST_INCOMING));
    assert_int_equal(do_run(dst->ctl, id_a, false, &err), -1); /* it runs; the answer is what fails */
    assert_true(hvproc_await(dst, FERRY__GUEST_STATE__GUEST_RUNNING));
    OK(do_run(dst->ctl, id_a, false, e));
    await_pass(mem, mem[GPA / 4] + 1);
    munmap(mem, 4 << 20);
    hvproc_end(dst);
    hvproc_end(src);
}

/* Bytes of no protocol, requests of no meaning, descriptors nobody asked for: the guest runs on. */
static void test_hostile_client(void **state)
{
    (void)state;
    START(p, CODE(tiny_count));
    uint32_t *mem = map_memory(p, 4 << 20);
    uint8_t junk[4096];
    unsigned seed = 1;
    for (int i = 0; i < 300; i++) {
        int sock = fy_msg_connect(p->path, NULL);
        assert_true(sock >= 0);
        size_t n = (size_t)rand_r(&seed) % sizeof junk;
        for (size_t k = 0; k < n; k++)
            junk[k] = (uint8_t)rand_r(&seed);
        /* Half of them begin like a request. */
        if (i & 1 && n > 4)
            memcpy(junk, (uint8_t[]){8, 1, (uint8_t)((2 + i % 22) << 3 | 2), 0}, 4);
        int fds[2] = {0, p->runlog_fd};
        fy_msg_send(sock, junk, i & 1 ? 4 : n, fds, i % 3, NULL);
        close(sock);
        if (i % 50 == 0)
            await_pass(mem, mem[GPA / 4] + 1);
    }
    struct fy_err err;
    Ferry__Request q = FERRY__REQUEST__INIT;
    assert_int_equal(call(p->ctl, &q, &err), -1);
    assert_int_equal(err.code, FY_EUNSUPPORTED);
    munmap(mem, 4 << 20);
    hvproc_end(p);
}

static void test_console(void **state)
{
    (void)state;
    START(p, CODE(tiny_count));
    Ferry__ConsoleAttachRequest r = FERRY__CONSOLE_ATTACH_REQUEST__INIT;
    Ferry__Request q = FERRY__REQUEST__INIT;
    Ferry__ControlOut *out;
    int fd, n = 1;
    uint32_t *mem = map_memory(p, 4 << 20);
    await_pass(mem, 3);
    r.scrollback = true;
    q.op_case = FERRY__REQUEST__OP_CONSOLE_ATTACH;
    q.console_attach = &r;
    OK(fy_ctl_call(p->ctl, &q, NULL, 0, &out, &fd, &n, e));
    ferry__control_out__free_unpacked(out, NULL);
    assert_int_equal(n, 1);
    char buf[8];
    assert_int_equal(fy_read_all(fd, buf, 8), 0);
    assert_memory_equal(buf, "........", 8);
    close(fd);
    munmap(mem, 4 << 20);
    hvproc_end(p);
}

static void test_many_vcpus(void **state)
{
    (void)state;
    START(p, CODE(tiny_count), .vcpus = 64);
    print_message("64 vCPUs: ready after %.2f ms\n", (double)p->ready_ns / 1e6);
    uint32_t *mem = map_memory(p, 4 << 20);
    await_pass(mem, 2);
    uint64_t worst = 0;
    for (int i = 0; i < 20; i++) {
        uint64_t ns;
        OK(fy_ctl_pause(p->ctl, &ns, e));
        OK(fy_ctl_resume(p->ctl, e));
        worst = ns > worst ? ns : worst;
    }
    print_message("64 vCPUs: worst pause of 20 %.2f ms\n", (double)worst / 1e6);
    munmap(mem, 4 << 20);
    hvproc_end(p);
}

int main(int argc, char **argv)
{
    if (argc != 2 && argc != 3) {
        fprintf(stderr, "usage: test_engine FERRY-HV [PATTERN]\n");
        return 2;
    }
    if (argc == 3)
        cmocka_set_test_filter(argv[2]);
    program = argv[1];
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_run_and_pause),
        cmocka_unit_test(test_exit_status),
        cmocka_unit_test(test_crash_report),
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_tracking_bitmap),
        cmocka_unit_test(test_tracking_ring),
        cmocka_unit_test(test_move),
        cmocka_unit_test(test_latch_and_back),
        cmocka_unit_test(test_bad_state),
        cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_run_log),
        cmocka_unit_test(test_console),
        cmocka_unit_test(test_many_vcpus),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_no_run_without_log),
        cmocka_unit_test(test_fault_points),
        cmocka_unit_test(test_hostile_client),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
