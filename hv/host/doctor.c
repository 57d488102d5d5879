// SPDX-License-Identifier: Apache-2.0
/* `vmctl doctor`: what this host can and cannot do, and why. */
#include <errno.h>
#include <fcntl.h>
#include <linux/userfaultfd.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/host/blk.h"
#include "hv/host/daemon.h"
#include "hv/host/promise.h"
#include "hv/sandbox/sandbox.h"

static void check(struct fyd_client *c, const char *name, const char *verdict, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

static void check(struct fyd_client *c, const char *name, const char *verdict, const char *fmt, ...)
{
    char detail[4096];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(detail, sizeof detail, fmt, ap);
    va_end(ap);
    Ferry__ApiReply r = FERRY__API_REPLY__INIT;
    Ferry__ApiCheck k = FERRY__API_CHECK__INIT;
    k.name = (char *)(uintptr_t)name;
    k.verdict = (char *)(uintptr_t)verdict;
    k.detail = detail;
    r.kind_case = FERRY__API_REPLY__KIND_CHECK;
    r.check = &k;
    fyd_reply(c, &r, NULL, 0);
}

static void check_kvm(struct fyd_client *c)
{
    int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    if (fd >= 0)
        check(c, "kvm", "yes", "/dev/kvm opens");
    else
        check(c, "kvm", "no", "/dev/kvm: %s%s", strerror(errno),
              errno == ENOENT
                  ? " (load kvm-amd or kvm-intel; in a virtual machine ask for nested virtualisation)"
                  : " (give this user access to it)");
    fy_close(&fd);
}

static void check_isolation(struct fyd_client *c)
{
    char have[FY_SANDBOX_TEXT], lack[FY_SANDBOX_TEXT];
    uint32_t layers = fy_sandbox_possible();
    fy_sandbox_text(layers, have);
    fy_sandbox_text(~layers & FY_SANDBOX_ALL, lack);
    if (layers == FY_SANDBOX_ALL)
        check(c, "isolation", "yes", "guests' hypervisors and workers give up: %s", have);
    else
        check(c, "isolation", "limited", "given up: %s; not possible here: %s%s", have, lack,
              layers & FY_SANDBOX_UID ? "" : " (user and root need a ferryd that root has started)");
}

static void check_memory(struct fyd_client *c)
{
    uint64_t small = fyd_memory_available(false) >> 20;
    uint64_t huge = fyd_memory_available(true) >> 20;
    check(c, "memory", small >= 256 ? "yes" : "limited", "%llu MiB are available for guests",
          (unsigned long long)small);
    check(c, "hugepages", huge ? "yes" : "no",
          huge ? "%llu MiB in free 2 MiB pages"
               : "%llu MiB in free 2 MiB pages (vm.nr_hugepages reserves some)",
          (unsigned long long)huge);
}

static void check_promises(struct fyd_client *c)
{
    struct fyd_promises p;
    fyd_promises(c->d, &p);
    check(c, "overcommit", p.memory <= p.allowed ? "yes" : "limited",
          "memory: %llu MiB are promised to %u guest%s, %llu MiB may be (%s %llu MiB, --memory-overcommit "
          "%.2f); more is "
          "refused",
          (unsigned long long)(p.memory >> 20), p.guests, p.guests == 1 ? "" : "s",
          (unsigned long long)(p.allowed >> 20), p.limited ? "the daemon's cgroup allows" : "the host has",
          (unsigned long long)(p.there >> 20), c->d->memory_ratio);
    check(c, "overcommit cpu", (double)p.vcpus <= p.cpus * c->d->cpu_ratio ? "yes" : "limited",
          "%u vCPUs on %u CPUs; above --cpu-overcommit %.2f a start is warned of", p.vcpus, p.cpus,
          c->d->cpu_ratio);
}

static void check_userfaultfd(struct fyd_client *c)
{
    int fd = -1;
    int dev = open("/dev/userfaultfd", O_RDWR | O_CLOEXEC);
    if (dev >= 0)
        fd = ioctl(dev, USERFAULTFD_IOC_NEW, O_CLOEXEC);
    const char *by = "/dev/userfaultfd";
    if (fd < 0) {
        fd = (int)syscall(SYS_userfaultfd, O_CLOEXEC);
        by = "the system call";
    }
    struct uffdio_api api = {.api = UFFD_API};
    if (fd < 0)
        check(c, "userfaultfd", "no", "%s (not needed to move guests; clones and post-copy will need it)",
              strerror(errno));
    else if (ioctl(fd, UFFDIO_API, &api) < 0)
        check(c, "userfaultfd", "no", "the kernel speaks another version");
    else
        check(c, "userfaultfd", api.features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM ? "yes" : "limited", "by %s%s",
              by,
              api.features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM ? "" : "; no write protection of shared memory");
    fy_close(&fd);
    fy_close(&dev);
}

static void check_cgroup(struct fyd_client *c)
{
    static const char *const names[] = {"cpu", "cpuset", "io", "memory"};
    char why[FY_ERR_TEXT], have[64] = "", lack[64] = "";
    unsigned bits = fyd_cgroup_controllers(why);
    for (size_t i = 0; i < 4; i++) {
        char *list = bits >> i & 1 ? have : lack;
        size_t n = strlen(list);
        snprintf(list + n, 64 - n, "%s%s", n ? ", " : "", names[i]);
    }
    if (!bits)
        check(c, "cgroup", "no", "%s: guests run without limits and weights", why);
    else
        check(c, "cgroup", *lack ? "limited" : "yes", "guests can be given limits of %s%s%s", have,
              *lack ? "; missing: " : "", lack);
}

static void check_disk(struct fyd_client *c)
{
    uint64_t kib = fyd_disk_available(c->d) >> 10;
    check(c, "disk",
          kib > 65536                    ? "yes"
          : kib > FYD_DISK_MARGIN / 1024 ? "limited"
                                         : "no",
          "%llu KiB are free under %s", (unsigned long long)kib, c->d->root);
}

static void check_servers(struct fyd_client *c)
{
    char path[PATH_MAX];
    const char *nbd = fyd_qemu_nbd();
    if (access(fyd_program(c->d, "ferry-blk", path), X_OK) == 0)
        check(c, "nbd", "yes", "disks by NBD: %s", path);
    else
        check(c, "nbd", "no", "disks by NBD: %s: %s", path, strerror(errno));
    check(c, "qcow2", nbd ? "yes" : "no", nbd ? "qcow2 images: %s" : "qcow2 images: no qemu-nbd%s",
          nbd ? nbd : " (it is in Debian's package qemu-utils)");
}

static void check_identity(struct fyd_client *c)
{
    struct fyd_host *self = fyd_host_self(c->d);
    unsigned peers = 0;
    for (struct fyd_host *h = c->d->hosts; h; h = h->next)
        peers += !h->row.self;
    if (!self)
        check(c, "identity", "no", "run `vmctl host init`, then `vmctl host invite` or `host join`");
    else
        check(c, "identity", peers ? "yes" : "limited", "%s at %s, paired with %u host%s", self->row.name,
              self->row.address, peers, peers == 1 ? "" : "s");
}

/* The probe prints one line of JSON of a form that is ours; these find a member's value in [at, end), or
 * NULL. */
static const char *value_of(const char *at, const char *end, const char *key)
{
    char quoted[64];
    int n = snprintf(quoted, sizeof quoted, "\"%s\":", key);
    const char *p = memmem(at, (size_t)(end - at), quoted, (size_t)n);
    return p ? p + n : NULL;
}

static bool is_true(const char *at, const char *end, const char *key)
{
    const char *p = value_of(at, end, key);
    return p && end - p >= 4 && !memcmp(p, "true", 4);
}

static void string_of(const char *at, const char *end, const char *key, char *out, size_t room)
{
    const char *p = value_of(at, end, key);
    size_t n = 0;
    if (p && p < end && *p == '"')
        for (p++; p < end && *p != '"' && n + 1 < room; p++)
            out[n++] = *p;
    out[n] = 0;
}

/* The strings of an array, joined. */
static void list_of(const char *at, const char *end, const char *key, char *out, size_t room)
{
    const char *p = value_of(at, end, key);
    size_t n = 0;
    bool in = false;
    for (; p && p < end && *p != ']' && n + 3 < room; p++) {
        if (*p == '"' && !in && n) {
            out[n++] = ';';
            out[n++] = ' ';
        }
        if (*p == '"')
            in = !in;
        else if (in)
            out[n++] = *p;
    }
    out[n] = 0;
}

/* `engine`: which one's models. */
static void tell_models(struct fyd_client *c, const char *engine, const char *at, const char *end)
{
    static const char begin[] = "{\"name\":";
    const char *m = memmem(at, (size_t)(end - at), begin, sizeof begin - 1);
    while (m) {
        const char *next = memmem(m + 1, (size_t)(end - m - 1), begin, sizeof begin - 1);
        const char *stop = next ? next : end;
        char name[64], label[128], missing[2048];
        string_of(m, stop, "name", name, sizeof name);
        list_of(m, stop, "missing", missing, sizeof missing);
        snprintf(label, sizeof label, "%s %s", engine, name);
        check(c, label, is_true(m, stop, "offered") ? "yes" : "no", "%s",
              *missing ? missing : "guests with this CPU model can start here and move here");
        m = next;
    }
}

/* What `auto` takes here, and why. */
static void tell_auto(struct fyd_client *c, const char *kvm, const char *end)
{
    const char *mips = kvm ? value_of(kvm, end, "ring0_mips") : NULL;
    if (!kvm)
        check(c, "engine auto", "yes", "soft: KVM cannot be used here");
    else if (!mips)
        check(c, "engine auto", "yes", "soft: this KVM does not run the instructions of a kernel");
    else if (is_true(kvm, end, "ring0_emulated"))
        check(c, "engine auto", "yes",
              "soft: this KVM emulates kernels, at %.1f million instructions a second (the software CPU does "
              "a hundred and more)",
              strtod(mips, NULL));
    else if (!is_true(kvm, end, "ring0_complete"))
        check(c, "engine auto", "yes", "soft: this KVM lacks instructions that kernels boot with");
    else
        check(c, "engine auto", "yes", "kvm: it runs kernels natively");
}

static bool tell_probe(struct fyd_client *c, const char *json, const char *end)
{
    const char *models = value_of(json, end, "models");
    char engine[32], model[64];
    string_of(json, models ? models : end, "engine", engine, sizeof engine);
    if (!*engine || !models)
        return false;
    string_of(json, models, "default_model", model, sizeof model);
    const char *vcpus = value_of(json, models, "max_vcpus");
    const char *ring = value_of(json, models, "dirty_ring_entries");
    unsigned long entries = ring ? strtoul(ring, NULL, 10) : 0;
    char label[48];
    snprintf(label, sizeof label, "engine %s", engine);
    check(c, label, "yes", "up to %lu vCPUs, default CPU model %s", vcpus ? strtoul(vcpus, NULL, 10) : 0,
          model);
    if (strcmp(engine, "kvm") != 0) {
        tell_models(c, engine, models, end);
        return true;
    }
    check(c, "dirty log", is_true(json, models, "dirty_log_manual") ? "yes" : "limited",
          "bitmap%s, dirty ring %s",
          is_true(json, models, "dirty_log_manual") ? " with manual re-protect" : "",
          entries ? "offered" : "not offered (no dirty rate by vCPU)");
    bool offset = is_true(json, models, "tsc_offset");
    check(c, "tsc", offset ? "yes" : "limited",
          offset ? "the guest's TSC goes on over a move"
                 : "this KVM cannot offset the TSC: a guest whose TSC is ahead of this host's is refused, "
                   "others see "
                   "it jump forward");
    tell_models(c, engine, models, end);
    return true;
}

static void probed(void *arg, const struct fy_err *err, bool clean, const char *out, size_t len)
{
    struct fyd_client *c = arg;
    const char *end = out + len;
    const char *kvm = NULL;
    if (err)
        check(c, "engine", "no", "%s", err->text);
    else if (!clean)
        check(c, "engine", "no", "ferry-hv --probe failed");
    for (const char *line = out, *stop; !err && line < end; line = stop + 1) {
        stop = memchr(line, '\n', (size_t)(end - line));
        stop = stop ? stop : end;
        if (stop > line && !tell_probe(c, line, stop))
            check(c, "engine", "no", "%.*s", (int)(stop - line), line);
        if (memmem(line, (size_t)(stop - line), "\"kvm\"", 5))
            kvm = line;
    }
    if (!err)
        tell_auto(c, kvm, end);
    fyd_reply_done(c);
    fyd_client_release(c);
}

void fyd_doctor(struct fyd_client *c)
{
    static const char *const argv[] = {"ferry-hv", "--probe", "--kvm-fd", "3", NULL};
    check_kvm(c);
    check_isolation(c);
    check_memory(c);
    check_promises(c);
    check_userfaultfd(c);
    check_cgroup(c);
    check_disk(c);
    check_servers(c);
    check_identity(c);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    fyd_client_hold(c);
    const char *const none[] = {"ferry-hv", "--probe", NULL};
    fyd_run_program(c->d, "ferry-hv", kvm >= 0 ? argv : none, &kvm, kvm >= 0, 10000, probed, c);
    fy_close(&kvm);
}
