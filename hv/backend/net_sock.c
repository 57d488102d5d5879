// SPDX-License-Identifier: Apache-2.0
/* A network that is a process (ferry-net), by way of a seqpacket socket. What comes from it is as little to
 * be trusted as what comes from a wire. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/backend/net.h"
#include "hv/base/checked.h"
#include "hv/base/io.h"

#define BATCH 32u

struct sock {
    struct fy_net_backend base;
    int fd;
    bool up;
};

static unsigned sock_pairs(const struct fy_net_backend *b)
{
    (void)b;
    return 1;
}

static int sock_fd(const struct fy_net_backend *b, unsigned pair)
{
    const struct sock *s = (const struct sock *)b;
    return s->up && pair == 0 ? s->fd : -1;
}

static unsigned sock_send(struct fy_net_backend *b, unsigned pair, const struct fy_net_tx *f, unsigned n,
                          bool *gone)
{
    struct sock *s = (struct sock *)b;
    struct mmsghdr m[BATCH];
    unsigned sent = 0;
    (void)pair;
    memset(m, 0, sizeof m);
    for (unsigned i = 0; i < FY_MIN(n, BATCH); i++)
        m[i].msg_hdr = (struct msghdr){.msg_iov = f[i].iov, .msg_iovlen = f[i].n};
    while (s->up && sent < FY_MIN(n, BATCH)) {
        int r = sendmmsg(s->fd, m + sent, FY_MIN(n, BATCH) - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (r > 0) {
            sent += (unsigned)r;
        } else if (errno == EPIPE || errno == ECONNRESET || errno == ENOTCONN) {
            s->up = false;
            *gone = true;
        } else if (errno == EMSGSIZE) {
            sent++; /* as if the wire had lost it */
        } else if (errno != EINTR) {
            break;
        }
    }
    return sent;
}

static unsigned sock_recv(struct fy_net_backend *b, unsigned pair, struct fy_net_rx *f, unsigned max,
                          bool *gone)
{
    struct sock *s = (struct sock *)b;
    struct mmsghdr m[BATCH];
    struct iovec iov[BATCH][2];
    (void)pair;
    if (!s->up)
        return 0;
    max = FY_MIN(max, BATCH);
    memset(m, 0, sizeof m);
    for (unsigned i = 0; i < max; i++) {
        iov[i][0] = (struct iovec){&f[i].hdr, FY_NET_HDR_BYTES};
        iov[i][1] = (struct iovec){f[i].data, FY_NET_FRAME_MAX};
        m[i].msg_hdr = (struct msghdr){.msg_iov = iov[i], .msg_iovlen = 2};
    }
    int r = recvmmsg(s->fd, m, max, MSG_DONTWAIT, NULL);
    if (r < 0) {
        *gone = errno != EAGAIN && errno != EINTR;
        s->up &= !*gone;
        return 0;
    }
    for (int i = 0; i < r; i++) {
        if (m[i].msg_len == 0) {
            s->up = false; /* its end */
            *gone = true;
            return (unsigned)i;
        }
        bool whole = m[i].msg_len > FY_NET_HDR_BYTES && !(m[i].msg_hdr.msg_flags & MSG_TRUNC);
        f[i].len = whole ? m[i].msg_len - FY_NET_HDR_BYTES : 0;
    }
    return (unsigned)r;
}

static int sock_attach(struct fy_net_backend *b, int fd, struct fy_err *e)
{
    struct sock *s = (struct sock *)b;
    int type = 0;
    socklen_t len = sizeof type;
    if (getsockopt(fd, SOL_SOCKET, SO_TYPE, &type, &len) < 0 || type != SOCK_SEQPACKET)
        return fy_fail(e, FY_EUSAGE, "a card's descriptor is no seqpacket socket");
    fy_close(&s->fd);
    s->fd = fd;
    s->up = true;
    return 0;
}

static void sock_free(struct fy_net_backend *b)
{
    struct sock *s = (struct sock *)b;
    fy_close(&s->fd);
    free(s);
}

static const struct fy_net_backend_ops sock_ops = {
    .tx_offloads = true,
    .pairs = sock_pairs,
    .fd = sock_fd,
    .send = sock_send,
    .recv = sock_recv,
    .attach = sock_attach,
    .free = sock_free,
};

struct fy_net_backend *fy_net_sock_new(int fd, struct fy_err *e)
{
    struct sock *s = calloc(1, sizeof *s);
    if (!s) {
        fy_close(&fd);
        fy_fail(e, FY_ERESOURCE, "no memory for a card's network");
        return NULL;
    }
    s->base.ops = &sock_ops;
    s->fd = -1;
    if (fd >= 0 && sock_attach(&s->base, fd, e) < 0) {
        fy_close(&fd);
        free(s);
        return NULL;
    }
    return &s->base;
}
