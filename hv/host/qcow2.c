// SPDX-License-Identifier: Apache-2.0
#include "hv/host/qcow2.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/host/blk.h"
#include "hv/host/spawn.h"

#define INCOMPATIBLE_DATA_FILE 4u
#define SOCKET_NAME "image.sock"

/* One of ours, until its end is seen. */
struct fyd_server {
    struct fyd_server *next;
    struct fyd *d;
    int pidfd;
    struct fy_watch *watch;
};

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static uint64_t be64(const uint8_t *p)
{
    return (uint64_t)be32(p) << 32 | be32(p + 4);
}

int fyd_qcow2_bytes(const uint8_t *h, size_t len, uint64_t *bytes, struct fy_err *e)
{
    if (len < 72 || memcmp(h, "QFI\xfb", 4) != 0)
        return fy_fail(e, FY_EUSAGE, "it is no qcow2 image");
    uint32_t version = be32(h + 4);
    if (version < 2 || version > 3 || (version == 3 && len < FYD_QCOW2_HEADER))
        return fy_fail(e, FY_EUSAGE, "a qcow2 image of version %u is not known here", version);
    if (be64(h + 8))
        return fy_fail(
            e, FY_EUSAGE,
            "it has a backing file, which is not supported (make it whole: qemu-img convert -O qcow2)");
    if (version == 3 && be64(h + 72) & INCOMPATIBLE_DATA_FILE)
        return fy_fail(e, FY_EUSAGE, "its data is in another file, which is not supported");
    if (be32(h + 32))
        return fy_fail(e, FY_EUSAGE, "it is encrypted, which is not supported");
    *bytes = be64(h + 24);
    if (!*bytes || *bytes % 512 || *bytes > INT64_MAX)
        return fy_fail(e, FY_EUSAGE, "it has %llu bytes: a disk has a multiple of 512, and some",
                       (unsigned long long)*bytes);
    return 0;
}

static void on_end(int fd, unsigned ready, void *arg)
{
    struct fyd_server *s = arg;
    char how[96];
    bool clean;
    (void)ready;
    if (!fyd_reap(fd, how, sizeof how, &clean))
        return;
    if (!clean)
        fy_warn("a qemu-nbd %s", how);
    struct fyd_server **p = &s->d->servers;
    while (*p != s)
        p = &(*p)->next;
    *p = s->next;
    fy_watch_free(s->watch);
    fy_close(&s->pidfd);
    free(s);
}

/* A socket that listens, and the one connection to it; no name is left. */
static int connected(const char *folder, int *listener, int *conn, struct fy_err *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int dir = open(folder, O_PATH | O_DIRECTORY | O_CLOEXEC);
    snprintf(a.sun_path, sizeof a.sun_path, "/proc/self/fd/%d/" SOCKET_NAME, dir);
    *listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    *conn = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    unlink(a.sun_path);
    int r = 0;
    if (dir < 0 || *listener < 0 || *conn < 0 || bind(*listener, (struct sockaddr *)&a, sizeof a) < 0 ||
        listen(*listener, 1) < 0 || connect(*conn, (struct sockaddr *)&a, sizeof a) < 0)
        r = fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make a socket in %s", folder);
    unlink(a.sun_path);
    fy_close(&dir);
    return r;
}

static int spawn(struct fyd *d, const char *cache, bool read_only, int listener, int image, int said,
                 int *pidfd, struct fy_err *e)
{
    char cache_arg[32];
    snprintf(cache_arg, sizeof cache_arg, "--cache=%s", cache);
    /* systemd's way to hand a listening socket over wants the process's own number in its environment. */
    const char *argv[] = {"sh",
                          "-c",
                          "export LISTEN_PID=$$ LISTEN_FDS=1; exec \"$@\"",
                          "sh",
                          fyd_qemu_nbd(),
                          "--format=qcow2",
                          cache_arg,
                          "--discard=unmap",
                          "--detect-zeroes=unmap",
                          read_only ? "--read-only" : "--shared=1",
                          "/proc/self/fd/4",
                          NULL};
    struct fyd_spawn s = {.path = "/bin/sh",
                          .argv = argv,
                          .fds = {listener, image},
                          .nfds = 2,
                          .log_fd = said,
                          .session = true};
    pid_t pid;
    struct fyd_server *v = calloc(1, sizeof *v);
    if (!v)
        return fy_fail(e, FY_ERESOURCE, "no memory for a server");
    if (fyd_spawn(&s, &pid, &v->pidfd, e) < 0) {
        free(v);
        return -1;
    }
    v->d = d;
    v->watch = fy_watch_fd(d->loop, v->pidfd, FY_READ, on_end, v, e);
    *pidfd = fy_dup(v->pidfd);
    v->next = d->servers;
    d->servers = v;
    if (v->watch && *pidfd >= 0)
        return 0;
    /* Its connection is closed by the caller, and with that it ends too. */
    fyd_kill(v->pidfd);
    return *pidfd < 0 ? fy_fail(e, FY_ERESOURCE, "no descriptor for a server") : -1;
}

int fyd_qcow2_serve(struct fyd *d, const char *folder, int fd, const char *cache, int read_only, int fds[3],
                    struct fy_err *e)
{
    int listener = -1;
    fds[0] = fds[1] = fds[2] = -1;
    int r = connected(folder, &listener, &fds[0], e);
    if (r == 0 && (fds[2] = memfd_create("ferry-qemu-nbd", MFD_CLOEXEC)) < 0)
        r = fy_fail_errno(e, FY_ERESOURCE, errno, "no memory for what a server says");
    if (r == 0)
        r = spawn(d, cache, read_only, listener, fd, fds[2], &fds[1], e);
    fy_close(&listener);
    for (int i = 0; r < 0 && i < 3; i++)
        fy_close(&fds[i]);
    return r;
}

void fyd_qcow2_free_all(struct fyd *d)
{
    for (struct fyd_server *s = d->servers, *next; s; s = next) {
        next = s->next;
        fy_watch_free(s->watch);
        fy_close(&s->pidfd);
        free(s);
    }
    d->servers = NULL;
}
