// SPDX-License-Identifier: Apache-2.0
/* A guest that checks itself hops between ferry-hv processes with pre-copy by log-dirty, and must find itself
 * intact: test_guest FERRY-HV KERNEL INITRD|- CMDLINE MEMORY_MIB VCPUS HOPS [DIRTY_RING]. No network, no
 * worker: what is tested is the hypervisor alone. Exit 0 intact, 1 not, 77 no KVM. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/bitmap.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "tests/engine/hvproc.h"

#define CHUNK_PAGES 4096u /* 16 MiB, as a worker takes */
#define LIVE_ROUNDS 3

struct run {
    const char *program;
    struct hvproc_options opt;
    struct hvproc *p;
    int console;
    char text[1 << 20];
    size_t len;
    uint64_t worst_gap, last_byte;
    uint64_t bytes; /* of memory */
    uint64_t copied, take_ns, takes;
};

static void die(const char *what, const struct fy_err *e)
{
    fprintf(stderr, "test_guest: %s: %s\n", what, e ? e->text : strerror(errno));
    exit(1);
}

static void attach(struct run *r, bool scrollback)
{
    Ferry__ConsoleAttachRequest a = FERRY__CONSOLE_ATTACH_REQUEST__INIT;
    Ferry__Request q = FERRY__REQUEST__INIT;
    Ferry__ControlOut *out;
    struct fy_err e;
    int n = 1;
    a.scrollback = scrollback;
    q.op_case = FERRY__REQUEST__OP_CONSOLE_ATTACH;
    q.console_attach = &a;
    if (fy_ctl_call(r->p->ctl, &q, NULL, 0, &out, &r->console, &n, &e) < 0)
        die("console", &e);
    ferry__control_out__free_unpacked(out, NULL);
}

static void read_console(struct run *r, int wait_ms)
{
    struct pollfd p = {.fd = r->console, .events = POLLIN};
    if (poll(&p, 1, wait_ms) != 1)
        return;
    char buf[4096];
    ssize_t n = recv(r->console, buf, sizeof buf, MSG_DONTWAIT);
    for (ssize_t i = 0; i < n; i++)
        if (buf[i] != '.' && r->len + 1 < sizeof r->text)
            r->text[r->len++] = buf[i];
    r->text[r->len] = 0;
}

static void check_alive(struct run *r)
{
    Ferry__ControlOut *hold;
    Ferry__StatusReply *s = hvproc_status(r->p, &hold);
    if (!s || s->state == FERRY__GUEST_STATE__GUEST_CRASHED ||
        s->state == FERRY__GUEST_STATE__GUEST_STOPPED) {
        fprintf(stderr, "test_guest: the guest ended: %s\nconsole:\n%s\n", s ? s->report : "", r->text);
        exit(1);
    }
    ferry__control_out__free_unpacked(hold, NULL);
}

static void await_text(struct run *r, const char *want, unsigned seconds)
{
    uint64_t end = fy_now_ns() + seconds * 1000000000ull;
    while (!strstr(r->text, want)) {
        read_console(r, 50);
        check_alive(r);
        if (fy_now_ns() > end) {
            fprintf(stderr, "test_guest: no \"%s\" within %u s; console:\n%s\n", want, seconds, r->text);
            exit(1);
        }
    }
}

struct copier {
    struct run *r;
    struct hvproc *dst;
    uint8_t *from;
    uint64_t *bits;
    uint32_t tracker;
    uint64_t pages;
};

static void copy_range(struct copier *c, uint64_t first, uint64_t count)
{
    for (uint64_t p = fy_bits_next_set(c->bits, first, first + count); p < first + count;) {
        uint64_t q = fy_bits_next_clear(c->bits, p, first + count);
        if (fy_pwrite_all(c->dst->mem_fd, c->from + p * 4096, (q - p) * 4096, (off_t)(p * 4096)) < 0)
            die("copy", NULL);
        c->r->copied += q - p;
        p = fy_bits_next_set(c->bits, q, first + count);
    }
}

/* Pages that were never touched have no data: the first round leaves them out (read through a mapping they
 * would be allocated). */
static void mask_holes(struct copier *c, uint64_t *data)
{
    off_t at = 0, end = (off_t)(c->pages * 4096);
    memset(data, 0, c->pages / 8);
    while ((at = lseek(c->r->p->mem_fd, at, SEEK_DATA)) >= 0 && at < end) {
        off_t hole = lseek(c->r->p->mem_fd, at, SEEK_HOLE);
        fy_bits_set(data, (uint64_t)at / 4096, (uint64_t)(hole - at + 4095) / 4096);
        at = hole;
    }
}

static void round_of(struct copier *c, bool refresh)
{
    struct fy_err e;
    uint64_t dirty, remaining;
    if (refresh && fy_ctl_tracker_count(c->r->p->ctl, c->tracker, true, &dirty, &e) < 0)
        die("count", &e);
    for (uint64_t first = 0; first < c->pages; first += CHUNK_PAGES) {
        uint64_t n = c->pages - first < CHUNK_PAGES ? c->pages - first : CHUNK_PAGES;
        uint64_t t = fy_now_ns();
        if (fy_ctl_tracker_take(c->r->p->ctl, c->tracker, first, n, false, &dirty, &remaining, &e) < 0)
            die("take", &e);
        c->r->take_ns += fy_now_ns() - t;
        c->r->takes++;
        copy_range(c, first, n);
    }
    if (fy_ctl_tracker_done(c->r->p->ctl, c->tracker, &e) < 0)
        die("done", &e);
}

static void first_round(struct copier *c)
{
    struct fy_err e;
    uint64_t dirty, remaining;
    uint64_t *data = malloc(c->pages / 8), *bits = c->bits;
    if (!data || fy_ctl_tracker_take(c->r->p->ctl, c->tracker, 0, c->pages, true, &dirty, &remaining, &e) < 0)
        die("first take", &e);
    mask_holes(c, data);
    for (uint64_t i = 0; i < c->pages / 64; i++)
        data[i] &= bits[i];
    c->bits = data;
    copy_range(c, 0, c->pages);
    c->bits = bits;
    free(data);
}

static struct hvproc *new_target(struct run *r)
{
    struct fy_err e;
    Ferry__ControlOut *out;
    if (fy_ctl_describe(r->p->ctl, &out, &e) < 0)
        die("describe", &e);
    struct hvproc *dst =
        hvproc_start(r->program, &(struct hvproc_options){.machine = out->response->describe->machine});
    ferry__control_out__free_unpacked(out, NULL);
    if (!dst || dst->ready->code) {
        fprintf(stderr, "test_guest: target: %s\n", dst ? dst->ready->text : "no KVM");
        exit(1);
    }
    return dst;
}

static void run_target(struct hvproc *dst)
{
    static const uint8_t id[16] = "test_guest's hop";
    Ferry__RunRequest q = FERRY__RUN_REQUEST__INIT;
    Ferry__Request req = FERRY__REQUEST__INIT;
    Ferry__ControlOut *out;
    struct fy_err e;
    q.handover_id = (ProtobufCBinaryData){.data = (uint8_t *)(uintptr_t)id, .len = 16};
    req.op_case = FERRY__REQUEST__OP_RUN;
    req.run = &q;
    if (fy_ctl_call(dst->ctl, &req, NULL, 0, &out, NULL, NULL, &e) < 0)
        die("run", &e);
    ferry__control_out__free_unpacked(out, NULL);
}

static void hop(struct run *r)
{
    struct fy_err e;
    struct copier c = {.r = r, .dst = new_target(r)};
    char warning[FY_ERR_TEXT];
    uint64_t bytes = 0, pause_ns;
    int bits_fd, state_fd = -1;
    c.from = mmap(NULL, r->bytes, PROT_READ, MAP_SHARED, r->p->mem_fd, 0);
    if (c.from == MAP_FAILED)
        die("mmap", NULL);
    if (fy_ctl_tracker_open(r->p->ctl, "hop", true, &c.tracker, &c.pages, &bits_fd, &e) < 0)
        die("tracker", &e);
    c.bits = mmap(NULL, c.pages / 8, PROT_READ, MAP_SHARED, bits_fd, 0);
    close(bits_fd);
    r->copied = r->take_ns = r->takes = 0;
    first_round(&c);
    uint64_t first = r->copied;
    for (int i = 0; i < LIVE_ROUNDS; i++)
        round_of(&c, true);
    uint64_t live = r->copied, start = fy_now_ns();
    if (fy_ctl_pause(r->p->ctl, &pause_ns, &e) < 0 || fy_ctl_save_state(r->p->ctl, &state_fd, &bytes, &e) < 0)
        die("pause and save", &e);
    round_of(&c, true);
    uint64_t copied = fy_now_ns();
    if (fy_ctl_load_state(c.dst->ctl, state_fd, bytes, warning, &e) < 0)
        die("load", &e);
    close(state_fd);
    run_target(c.dst);
    uint64_t end = fy_now_ns();
    printf("hop: first %llu pages, live %llu, last %llu; pause %.2f ms, state and last pages %.2f, load and "
           "run %.2f, "
           "take %.0f us%s%s\n",
           (unsigned long long)first, (unsigned long long)(live - first),
           (unsigned long long)(r->copied - live), (double)pause_ns / 1e6, (double)(copied - start) / 1e6,
           (double)(end - copied) / 1e6, (double)r->take_ns / 1e3 / (double)r->takes, warning[0] ? "; " : "",
           warning);
    fflush(stdout);
    read_console(r, 0);
    munmap(c.from, r->bytes);
    munmap(c.bits, c.pages / 8);
    close(r->console);
    hvproc_end(r->p);
    r->p = c.dst;
    attach(r, false);
}

int main(int argc, char **argv)
{
    static struct run r;
    if (argc < 8) {
        fprintf(stderr,
                "usage: test_guest FERRY-HV KERNEL INITRD|- CMDLINE MEMORY_MIB VCPUS HOPS [DIRTY_RING]\n");
        return 2;
    }
    signal(SIGPIPE, SIG_IGN);
    r.program = argv[1];
    r.opt.kernel_path = argv[2];
    r.opt.initrd_path = strcmp(argv[3], "-") ? argv[3] : NULL;
    r.opt.cmdline = argv[4];
    r.bytes = r.opt.memory = strtoull(argv[5], NULL, 10) << 20;
    r.opt.vcpus = (uint32_t)atoi(argv[6]);
    r.opt.dirty_ring = argc > 8 ? (uint32_t)atoi(argv[8]) : 0;
    r.opt.debug_exit = true;
    r.p = hvproc_start(r.program, &r.opt);
    if (!r.p)
        return 77;
    if (r.p->ready->code) {
        fprintf(stderr, "test_guest: %s\n", r.p->ready->text);
        return 1;
    }
    attach(&r, true);
    await_text(&r, "!filled", 120);
    printf("filled\n");
    for (int i = 0; i < atoi(argv[7]); i++) {
        for (uint64_t end = fy_now_ns() + 300000000; fy_now_ns() < end;)
            read_console(&r, 20);
        hop(&r);
    }
    if (write(r.console, "v", 1) != 1)
        die("console", NULL);
    await_text(&r, "!verdict", 120);
    await_text(&r, "passes=", 5);
    bool ok = strstr(r.text, "!verdict intact") && !strstr(r.text, "!clock") && !strstr(r.text, "!corrupt");
    char *at = strstr(r.text, "!start");
    printf("%s\n%s\n", at ? strtok(at, "\r\n") : "", strstr(r.text, "!verdict") ? "verdict" : "");
    if (!ok)
        fprintf(stderr, "%s\n", r.text);
    printf("%s\n", ok ? "intact" : "CORRUPT");
    hvproc_end(r.p);
    return ok ? 0 : 1;
}
