// SPDX-License-Identifier: Apache-2.0
/* ferry-hv: one guest. Everything comes by descriptor; it opens no path. */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "hv/base/err.h"
#include "hv/base/fault.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/loop.h"
#include "hv/base/msg.h"
#include "hv/control/server.h"
#include "hv/cpu/kvm/kvm.h"
#include "hv/cpu/soft/engine.h"
#include "hv/dev/platform.h"
#include "hv/dev/virtio_vsock.h"
#include "hv/sandbox/sandbox.h"
#include "hv/vm/life.h"

#define CONFIG_MAX (1u << 20)
#define ICOUNT_TSC_KHZ 1000000u

enum {
    CONFIG,
    CONTROL,
    KVM,
    MEM,
    MEM_RO,
    RUNLOG,
    READY,
    KERNEL,
    INITRD,
    VSOCK,
    FIRMWARE,
    NVRAM,
    FD_COUNT,
    DISK,
    CONSOLE_LOG
};

struct options {
    int fd[FD_COUNT];
    int nic_fds[FY_NICS_MAX][FY_NET_PAIRS_MAX];
    int disk_fds[FY_DISKS_LIMIT];
    unsigned disk_count;
    int console_log_fds[2];
    unsigned console_logs;
    bool incoming, paused, check, probe;
};

struct hv {
    struct fy_loop *loop;
    struct fy_machine *m;
    struct fy_life life;
    struct fy_server *server;
    uint8_t run_id[16];
    uint32_t layers; /* of isolation */
};

static const char usage[] =
    "usage: ferry-hv --config-fd N --control-fd N --kvm-fd N --mem-fd N --mem-ro-fd "
    "N --runlog-fd N --ready-fd N\n"
    "                [--kernel-fd N] [--initrd-fd N] [--firmware-fd N] [--nvram-fd "
    "N] [--console-log-fd N --console-log-fd N] [--disk-fd N]... [--vsock-fd N] [--nic-fd "
    "CARD.QUEUE=N]... [--incoming] "
    "[--paused]\n"
    "       ferry-hv --check --config-fd N --kvm-fd N --ready-fd N\n"
    "       ferry-hv --probe --kvm-fd N\n"
    "ferryd starts this program; docs/spec/control.md describes it.\n";

/* "CARD.QUEUE=N" */
static int parse_nic(const char *text, struct options *o)
{
    char *end;
    unsigned long card = strtoul(text, &end, 10);
    unsigned long queue = *end == '.' ? strtoul(end + 1, &end, 10) : FY_NET_PAIRS_MAX;
    unsigned long fd = *end == '=' ? strtoul(end + 1, &end, 10) : 0;
    if (*end || card >= FY_NICS_MAX || queue >= FY_NET_PAIRS_MAX || fd < 3 || fd > 1 << 20)
        return -1;
    o->nic_fds[card][queue] = (int)fd;
    fy_set_cloexec((int)fd, true);
    return 0;
}

static int parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"config-fd", 1, NULL, CONFIG},
        {"control-fd", 1, NULL, CONTROL},
        {"kvm-fd", 1, NULL, KVM},
        {"mem-fd", 1, NULL, MEM},
        {"mem-ro-fd", 1, NULL, MEM_RO},
        {"runlog-fd", 1, NULL, RUNLOG},
        {"ready-fd", 1, NULL, READY},
        {"kernel-fd", 1, NULL, KERNEL},
        {"initrd-fd", 1, NULL, INITRD},
        {"firmware-fd", 1, NULL, FIRMWARE},
        {"nvram-fd", 1, NULL, NVRAM},
        {"disk-fd", 1, NULL, DISK},
        {"vsock-fd", 1, NULL, VSOCK},
        {"incoming", 0, NULL, 'i'},
        {"paused", 0, NULL, 'p'},
        {"check", 0, NULL, 'c'},
        {"probe", 0, NULL, 'q'},
        {"version", 0, NULL, 'v'},
        {"nic-fd", 1, NULL, 'n'},
        {"console-log-fd", 1, NULL, CONSOLE_LOG},
        {NULL, 0, NULL, 0},
    };
    for (int i = 0; i < FD_COUNT; i++)
        o->fd[i] = -1;
    memset(o->nic_fds, 0xff, sizeof o->nic_fds);
    int c;
    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        char *end;
        switch (c) {
        case 'i':
            o->incoming = true;
            break;
        case 'p':
            o->paused = true;
            break;
        case 'c':
            o->check = true;
            break;
        case 'q':
            o->probe = true;
            break;
        case 'n':
            if (parse_nic(optarg, o) < 0)
                return -1;
            break;
        case 'v':
            puts(FERRY_VERSION);
            exit(0);
        default:
            if (c < 0 || c > CONSOLE_LOG || (c == DISK && o->disk_count == FY_DISKS_LIMIT) ||
                (c == CONSOLE_LOG && o->console_logs == 2))
                return -1;
            errno = 0;
            long n = strtol(optarg, &end, 10);
            if (*end || errno || n < 3 || n > 1 << 20)
                return -1;
            fy_set_cloexec((int)n, true);
            if (c == DISK)
                o->disk_fds[o->disk_count++] = (int)n;
            else if (c == CONSOLE_LOG)
                o->console_log_fds[o->console_logs++] = (int)n;
            else
                o->fd[c] = (int)n;
        }
    }
    return optind == argc && o->console_logs != 1 ? 0 : -1;
}

static Ferry__Machine *read_config(int fd, struct fy_err *e)
{
    struct stat st;
    if (fstat(fd, &st) < 0 || st.st_size <= 0 || st.st_size > CONFIG_MAX) {
        fy_fail(e, FY_EUSAGE, "the machine's description cannot be read");
        return NULL;
    }
    uint8_t *buf = malloc((size_t)st.st_size);
    Ferry__Machine *m = NULL;
    if (buf && fy_pread_all(fd, buf, (size_t)st.st_size, 0) == 0)
        m = ferry__machine__unpack(NULL, (size_t)st.st_size, buf);
    free(buf);
    if (!m)
        fy_fail(e, FY_ECORRUPT, "the machine's description does not parse");
    return m;
}

static void say_ready(int fd, const struct fy_err *e, uint64_t prealloc_ns)
{
    Ferry__HvReady r = FERRY__HV_READY__INIT;
    uint8_t buf[2 * FY_ERR_TEXT];
    struct fy_err send;
    r.code = (uint32_t)(e ? e->code : 0);
    r.text = (char *)(uintptr_t)(e ? e->text : "");
    r.prealloc_ns = prealloc_ns;
    r.ready = r.code == 0;
    if (e)
        fy_error("%s", e->text);
    if (fd < 0 || ferry__hv_ready__get_packed_size(&r) > sizeof buf)
        return;
    size_t len = ferry__hv_ready__pack(&r, buf);
    if (fy_msg_send(fd, buf, len, NULL, 0, &send) < 0)
        fy_warn("nobody hears that this process is ready: %s", send.text);
}

/* Settle `auto`: KVM where it is there and runs kernels natively, else the software CPU. */
static int choose_engine(Ferry__Machine *desc, int kvm_fd, struct fy_err *e)
{
    if (desc->engine[0] && strcmp(desc->engine, "auto") != 0)
        return 0;
    char *engine = strdup(!desc->icount_ns && kvm_fd >= 0 && fy_kvm_fit(kvm_fd) ? "kvm" : "soft");
    if (!engine)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    fy_info("engine %s: %s", engine,
            desc->icount_ns              ? "it counts instructions"
            : kvm_fd < 0                 ? "there is no KVM here"
            : strcmp(engine, "kvm") != 0 ? "this KVM emulates kernels' instructions one by one"
                                         : "KVM runs kernels natively");
    if (desc->engine != protobuf_c_empty_string)
        free(desc->engine);
    desc->engine = engine;
    return 0;
}

/* What the engine of the description offers on this host. */
static int support(const Ferry__Machine *desc, int kvm_fd, struct fy_cpu_support *s, struct fy_err *e)
{
    if (!fy_machine_is_soft(desc) && desc->icount_ns)
        return fy_fail(e, FY_EREFUSED,
                       "engine \"%s\" does not count instructions: icount is the software engine's",
                       desc->engine);
    if (!fy_machine_is_soft(desc))
        return kvm_fd < 0
                   ? fy_fail(e, FY_EUNSUPPORTED, "/dev/kvm cannot be opened here (--engine soft needs none)")
                   : fy_kvm_support(kvm_fd, s, e);
    fy_soft_support(s);
    /* Not what this host happens to measure. */
    if (desc->icount_ns)
        s->tsc_khz = ICOUNT_TSC_KHZ;
    return 0;
}

/* The description, complete and found possible here. */
static Ferry__Machine *prepare(const struct options *o, struct fy_err *e)
{
    struct fy_cpu_support *s = calloc(1, sizeof *s);
    Ferry__Machine *desc = read_config(o->fd[CONFIG], e);
    if (desc && o->incoming && (!desc->cpu || !desc->cpu->n_cpuid || !desc->n_devices)) {
        ferry__machine__free_unpacked(desc, NULL);
        free(s);
        fy_fail(e, FY_ECORRUPT, "an incoming guest's description must be whole: CPU policy and devices");
        return NULL;
    }
    if (!s || !desc || choose_engine(desc, o->fd[KVM], e) < 0 || support(desc, o->fd[KVM], s, e) < 0 ||
        fy_machine_complete(desc, s, e) < 0) {
        if (!s)
            fy_fail(e, FY_ERESOURCE, "no memory");
        if (desc)
            ferry__machine__free_unpacked(desc, NULL);
        desc = NULL;
    }
    free(s);
    return desc;
}

/* Can this host run it? Beside the lists, let KVM itself say what it thinks of the CPU model. */
static int run_check(const struct options *o)
{
    struct fy_err e = {.code = 0};
    Ferry__Machine *desc = prepare(o, &e);
    if (desc) {
        struct fy_engine_config c = {.vcpus = 1, .policy = desc->cpu, .dirty_ring = desc->dirty_ring};
        struct fy_engine *en = fy_machine_is_soft(desc) ? NULL : fy_kvm_engine_new(o->fd[KVM], &c, &e);
        if (en)
            en->ops->free(en);
        ferry__machine__free_unpacked(desc, NULL);
    }
    say_ready(o->fd[READY], e.code ? &e : NULL, 0);
    return e.code;
}

/* A line for each engine that is here. */
static int run_probe(const struct options *o)
{
    enum { ROOM = 32768 };
    struct fy_err e = {.code = 0};
    char *buf = malloc(ROOM);
    if (!buf)
        fy_fail(&e, FY_ERESOURCE, "no memory");
    else if (fy_soft_probe_json(buf, ROOM, &e) == 0)
        puts(buf);
    if (!e.code && o->fd[KVM] >= 0 && fy_kvm_probe_json(o->fd[KVM], buf, ROOM, &e) == 0)
        puts(buf);
    if (e.code)
        fprintf(stderr, "ferry-hv: %s\n", e.text);
    free(buf);
    return e.code;
}

static void on_console_out(void *arg, const uint8_t *buf, size_t len)
{
    struct hv *h = arg;
    if (h->server)
        fy_server_console_out(h->server, buf, len);
}

static void on_console_room(void *arg)
{
    struct hv *h = arg;
    if (h->server)
        fy_server_console_room(h->server);
}

static void on_vsock_connect(void *arg, uint32_t port, uint64_t id)
{
    struct hv *h = arg;
    fy_server_vsock(h->server, fy_machine_vsock(h->m), port, id);
}

static void on_ended(void *arg)
{
    fy_life_ended(&((struct hv *)arg)->life);
}

static void on_reached(void *arg)
{
    struct hv *h = arg;
    fy_life_reached(&h->life);
    if (h->server)
        fy_server_reached(h->server);
}

static void tell_nic_lost(void *arg)
{
    struct hv *h = arg;
    if (h->server)
        fy_server_nics(h->server);
}

static void on_nic_lost(void *arg)
{
    struct hv *h = arg;
    struct fy_err e;
    if (fy_loop_post(h->loop, tell_nic_lost, h, &e) < 0)
        fy_error("%s", e.text);
}

static void tell_disk_lost(void *arg)
{
    struct hv *h = arg;
    if (h->server)
        fy_server_disks(h->server);
}

static void on_disk_lost(void *arg)
{
    struct hv *h = arg;
    struct fy_err e;
    if (fy_loop_post(h->loop, tell_disk_lost, h, &e) < 0)
        fy_error("%s", e.text);
}

/* A user for each guest, outside of what systems give to people, services and containers: from its UUID. */
static uid_t guest_user(const Ferry__Machine *desc)
{
    uint32_t n = 0;
    for (size_t i = 0; i < 3 && i < desc->uuid.len; i++)
        n = n << 8 | desc->uuid.data[i];
    return 0x66000000u | n;
}

static int build(struct hv *h, struct options *o, uint64_t *prealloc_ns, struct fy_err *e)
{
    Ferry__Machine *desc = prepare(o, e);
    if (!desc)
        return -1;
    /* Before there are threads, and before a byte that a guest or a peer has made is looked at. */
    const struct fy_sandbox_wants wants = {.uid = guest_user(desc)};
    if (fy_sandbox_process(&wants, &h->layers, e) == 0)
        h->loop = fy_loop_new(e);
    if (h->loop) {
        struct fy_machine_config c = {
            .desc = desc,
            .kvm_fd = o->fd[KVM],
            .mem_fd = o->fd[MEM],
            .mem_ro_fd = o->fd[MEM_RO],
            .kernel_fd = o->fd[KERNEL],
            .initrd_fd = o->fd[INITRD],
            .firmware_fd = o->fd[FIRMWARE],
            .nvram_fd = o->fd[NVRAM],
            .runlog_fd = o->fd[RUNLOG],
            .console_log_fds = {o->console_logs ? o->console_log_fds[0] : -1, o->console_log_fds[1]},
            .nic_fds = o->nic_fds,
            .nic_lost = on_nic_lost,
            .disk_lost = on_disk_lost,
            .incoming = o->incoming,
            .loop = h->loop,
            .arg = h,
            .console_out = on_console_out,
            .console_room = on_console_room,
            .ended = on_ended,
            .reached = on_reached,
            .vsock_connect = on_vsock_connect,
        };
        memcpy(c.run_id, h->run_id, sizeof c.run_id);
        h->m = fy_machine_new(&c, prealloc_ns, e);
    }
    ferry__machine__free_unpacked(desc, NULL);
    /* An incoming guest's come when it is to run. */
    if (h->m && !o->incoming && fy_machine_take_disks(h->m, o->disk_fds, o->disk_count, e) < 0)
        return -1;
    if (!h->m || (!o->incoming && fy_machine_boot(h->m, e) < 0))
        return -1;
    if (fy_machine_vsock(h->m) && o->fd[VSOCK] >= 0 &&
        fy_vsock_listen(fy_machine_vsock(h->m), o->fd[VSOCK], e) < 0)
        return -1;
    fy_life_init(&h->life, h->m, o->incoming, o->paused);
    h->server = fy_server_new(h->loop, o->fd[CONTROL], &h->life, h->run_id, e);
    if (!h->server)
        return -1;
    h->life.changed = fy_server_changed;
    h->life.arg = h->server;
    char layers[FY_SANDBOX_TEXT];
    h->layers |= fy_sandbox_thread(FY_SANDBOX_MAIN);
    fy_server_set_isolation(h->server, fy_sandbox_text(h->layers, layers));
    return 0;
}

static int run_guest(struct options *o)
{
    struct hv h;
    struct fy_err e = {.code = 0};
    uint64_t prealloc_ns = 0;
    memset(&h, 0, sizeof h);
    fy_random(h.run_id, sizeof h.run_id);
    int r = build(&h, o, &prealloc_ns, &e);
    say_ready(o->fd[READY], r < 0 ? &e : NULL, prealloc_ns);
    fy_close(&o->fd[READY]);
    if (r == 0) {
        fy_life_start(&h.life);
        r = fy_loop_run(h.loop, &e);
        if (r < 0)
            fy_error("%s", e.text);
    }
    fy_server_free(h.server);
    h.server = NULL;
    fy_life_done(&h.life);
    fy_machine_free(h.m);
    fy_loop_free(h.loop);
    return r < 0 ? e.code : 0;
}

int main(int argc, char **argv)
{
    struct options o = {.incoming = false};
    fy_log_init("ferry-hv", FY_LOG_INFO);
    fy_fault_init();
    signal(SIGPIPE, SIG_IGN);
    if (parse_options(argc, argv, &o) < 0) {
        fputs(usage, stderr);
        return FY_EUSAGE;
    }
    if (o.probe)
        return run_probe(&o);
    if (o.fd[CONFIG] < 0 || (!o.check && (o.fd[CONTROL] < 0 || o.fd[MEM] < 0 || o.fd[MEM_RO] < 0))) {
        fputs(usage, stderr);
        return FY_EUSAGE;
    }
    return o.check ? run_check(&o) : run_guest(&o);
}
