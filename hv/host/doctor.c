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
#include "hv/host/daemon.h"

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
    char line[256] = "";
    FILE *f = fopen("/sys/fs/cgroup/cgroup.controllers", "re");
    if (f && !fgets(line, sizeof line, f))
        line[0] = 0;
    if (f)
        fclose(f);
    line[strcspn(line, "\n")] = 0;
    if (!f)
        check(c, "cgroup", "no", "no cgroup v2 at /sys/fs/cgroup (guests run without resource limits)");
    else
        check(c, "cgroup", strstr(line, "memory") && strstr(line, "cpu") ? "yes" : "limited",
              "cgroup v2 with %s", *line ? line : "no controllers");
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

/* Top-level members of the probe's JSON object become checks of their own:
 * {"name":{"verdict":"yes","detail":"…"},…} as ferry-hv prints it; anything else is passed on as it is. */
static bool string_member(const char *obj, const char *end, const char *key, char *out, size_t room)
{
    char quoted[64];
    snprintf(quoted, sizeof quoted, "\"%s\"", key);
    const char *p = memmem(obj, (size_t)(end - obj), quoted, strlen(quoted));
    if (!p)
        return false;
    p += strlen(quoted);
    while (p < end && (*p == ' ' || *p == ':'))
        p++;
    if (p == end || *p != '"')
        return false;
    size_t n = 0;
    for (p++; p < end && *p != '"' && n + 1 < room; p++) {
        if (*p == '\\' && p + 1 < end)
            p++;
        out[n++] = *p;
    }
    out[n] = 0;
    return true;
}

static unsigned probe_members(struct fyd_client *c, const char *json, size_t len)
{
    const char *end = json + len;
    const char *p = memchr(json, '{', len);
    unsigned told = 0;
    while (p && ++p < end) {
        const char *name = memchr(p, '"', (size_t)(end - p));
        const char *name_end = name ? memchr(name + 1, '"', (size_t)(end - name - 1)) : NULL;
        const char *obj = name_end ? memchr(name_end, '{', (size_t)(end - name_end)) : NULL;
        const char *close = obj ? memchr(obj, '}', (size_t)(end - obj)) : NULL;
        char key[64], verdict[16], detail[2048] = "";
        if (!close || name_end - name - 1 >= (long)sizeof key ||
            !string_member(obj, close, "verdict", verdict, sizeof verdict))
            break;
        memcpy(key, name + 1, (size_t)(name_end - name - 1));
        key[name_end - name - 1] = 0;
        string_member(obj, close, "detail", detail, sizeof detail);
        check(c, key, verdict, "%s", detail);
        told++;
        p = close;
    }
    return told;
}

static void probed(void *arg, const struct fy_err *err, bool clean, const char *out, size_t len)
{
    struct fyd_client *c = arg;
    while (len && (out[len - 1] == '\n' || out[len - 1] == ' '))
        len--;
    if (err)
        check(c, "engine", "no", "%s", err->text);
    else if (!len)
        check(c, "engine", clean ? "limited" : "no", "ferry-hv --probe %s",
              clean ? "says nothing" : "failed");
    else if (!probe_members(c, out, len))
        check(c, "engine", clean ? "yes" : "no", "%.*s", (int)len, out);
    fyd_reply_done(c);
    fyd_client_release(c);
}

void fyd_doctor(struct fyd_client *c)
{
    static const char *const argv[] = {"ferry-hv", "--probe", "--kvm-fd", "3", NULL};
    check_kvm(c);
    check_memory(c);
    check_userfaultfd(c);
    check_cgroup(c);
    check_disk(c);
    check_identity(c);
    int kvm = open("/dev/kvm", O_RDWR | O_CLOEXEC);
    fyd_client_hold(c);
    const char *const none[] = {"ferry-hv", "--probe", NULL};
    fyd_run_program(c->d, "ferry-hv", kvm >= 0 ? argv : none, &kvm, kvm >= 0, 10000, probed, c);
    fy_close(&kvm);
}
