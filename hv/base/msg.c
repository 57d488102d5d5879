// SPDX-License-Identifier: Apache-2.0
#include "hv/base/msg.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

int fy_msg_send(int sock, const void *buf, size_t len, const int *fds, int nfds, struct fy_err *e)
{
    if (len > FY_MSG_MAX || nfds < 0 || nfds > FY_MSG_FDS)
        return fy_fail(e, FY_EFAIL, "message of %zu bytes with %d descriptors is over the limit", len, nfds);
    struct iovec iov = {.iov_base = (void *)(uintptr_t)buf, .iov_len = len};
    union {
        char buf[CMSG_SPACE(sizeof(int) * FY_MSG_FDS)];
        struct cmsghdr align;
    } ctl;
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};
    if (nfds) {
        memset(&ctl, 0, sizeof ctl);
        m.msg_control = ctl.buf;
        m.msg_controllen = CMSG_SPACE(sizeof(int) * (size_t)nfds);
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(sizeof(int) * (size_t)nfds);
        memcpy(CMSG_DATA(c), fds, sizeof(int) * (size_t)nfds);
    }
    ssize_t n;
    do
        n = sendmsg(sock, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        int err = errno;
        fy_fail_errno(e, FY_EUNREACHABLE, err, "cannot send to the other process");
        return err == EAGAIN || err == EWOULDBLOCK ? -2 : -1;
    }
    return 0;
}

static void take_fds(struct msghdr *m, int *fds, int *nfds)
{
    int room = *nfds;
    *nfds = 0;
    for (struct cmsghdr *c = CMSG_FIRSTHDR(m); c; c = CMSG_NXTHDR(m, c)) {
        if (c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
            continue;
        size_t count = (c->cmsg_len - CMSG_LEN(0)) / sizeof(int);
        for (size_t i = 0; i < count; i++) {
            int fd;
            memcpy(&fd, CMSG_DATA(c) + i * sizeof(int), sizeof fd);
            if (*nfds < room)
                fds[(*nfds)++] = fd;
            else
                close(fd);
        }
    }
}

long fy_msg_recv(int sock, void *buf, int *fds, int *nfds, struct fy_err *e)
{
    int none = 0;
    if (!nfds)
        nfds = &none;
    struct iovec iov = {.iov_base = buf, .iov_len = FY_MSG_MAX};
    union {
        char buf[CMSG_SPACE(sizeof(int) * FY_MSG_FDS)];
        struct cmsghdr align;
    } ctl;
    struct msghdr m = {
        .msg_iov = &iov, .msg_iovlen = 1, .msg_control = ctl.buf, .msg_controllen = sizeof ctl.buf};
    ssize_t n;
    do
        n = recvmsg(sock, &m, MSG_CMSG_CLOEXEC);
    while (n < 0 && errno == EINTR);
    if (n < 0) {
        *nfds = 0;
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            return -2;
        return fy_fail_errno(e, FY_EUNREACHABLE, errno, "cannot receive from the other process");
    }
    take_fds(&m, fds, nfds);
    if (m.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) {
        for (int i = 0; i < *nfds; i++)
            close(fds[i]);
        *nfds = 0;
        return fy_fail(e, FY_ECORRUPT,
                       "the other process sent a message over the limit of %d bytes or %d descriptors",
                       FY_MSG_MAX, FY_MSG_FDS);
    }
    return n;
}

static void widen(int sock)
{
    int size = FY_MSG_MAX * 4;
    setsockopt(sock, SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
}

int fy_msg_pair(int sv[2], struct fy_err *e)
{
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, sv) < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make a socket pair");
    widen(sv[0]);
    widen(sv[1]);
    return 0;
}

/* sun_path holds 107 bytes; a longer path is reached through its directory's descriptor. *dirfd is
 * the caller's to close after use (-1 where none was needed). */
static int make_addr(const char *path, struct sockaddr_un *addr, int *dirfd, struct fy_err *e)
{
    memset(addr, 0, sizeof *addr);
    addr->sun_family = AF_UNIX;
    *dirfd = -1;
    if (strlen(path) < sizeof addr->sun_path) {
        memcpy(addr->sun_path, path, strlen(path) + 1);
        return 0;
    }
    const char *slash = strrchr(path, '/');
    char dir[PATH_MAX];
    if (!slash || (size_t)(slash - path) >= sizeof dir)
        return fy_fail(e, FY_EUSAGE, "socket path too long: %s", path);
    memcpy(dir, path, (size_t)(slash - path));
    dir[slash - path] = 0;
    *dirfd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (*dirfd < 0)
        return fy_fail_errno(e, FY_EUNREACHABLE, errno, "cannot open folder %s", dir);
    int n = snprintf(addr->sun_path, sizeof addr->sun_path, "/proc/self/fd/%d/%s", *dirfd, slash + 1);
    if (n < 0 || (size_t)n >= sizeof addr->sun_path)
        return fy_fail(e, FY_EUSAGE, "socket name too long: %s", path);
    return 0;
}

int fy_msg_listen(const char *path, unsigned mode, struct fy_err *e)
{
    struct sockaddr_un addr;
    int dirfd;
    int sock = -1;
    if (make_addr(path, &addr, &dirfd, e) < 0)
        goto fail;
    sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (sock < 0) {
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make a socket");
        goto fail;
    }
    unlink(addr.sun_path);
    /* Restrict before anyone can connect: connecting needs listen(), which comes after chmod. */
    if (bind(sock, (struct sockaddr *)&addr, sizeof addr) < 0 || chmod(addr.sun_path, mode) < 0 ||
        listen(sock, 64) < 0) {
        fy_fail_errno(e, FY_ERESOURCE, errno, "cannot listen at %s", path);
        goto fail;
    }
    if (dirfd >= 0)
        close(dirfd);
    return sock;
fail:
    if (dirfd >= 0)
        close(dirfd);
    if (sock >= 0)
        close(sock);
    return -1;
}

int fy_msg_connect(const char *path, struct fy_err *e)
{
    struct sockaddr_un addr;
    int dirfd;
    int sock = -1;
    if (make_addr(path, &addr, &dirfd, e) == 0) {
        sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
        if (sock < 0) {
            fy_fail_errno(e, FY_ERESOURCE, errno, "cannot make a socket");
        } else if (connect(sock, (struct sockaddr *)&addr, sizeof addr) < 0) {
            fy_fail_errno(e, FY_EUNREACHABLE, errno, "cannot connect to %s", path);
            close(sock);
            sock = -1;
        } else {
            widen(sock);
        }
    }
    if (dirfd >= 0)
        close(dirfd);
    return sock;
}
