// SPDX-License-Identifier: Apache-2.0
/* A tap interface (Linux, Documentation/networking/tuntap.rst; <linux/if_tun.h>). */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hv/backend/net.h"
#include "hv/base/io.h"
#include "hv/base/log.h"

#define FEATURE_GUEST_CSUM (1ull << 1)
#define FEATURE_GUEST_TSO4 (1ull << 7)
#define FEATURE_GUEST_TSO6 (1ull << 8)
#define FEATURE_GUEST_ECN (1ull << 9)

struct tap {
    struct fy_net_backend base;
    unsigned pairs, used; /* used: queues that the kernel spreads frames over */
    int fd[FY_NET_PAIRS_MAX];
};

static unsigned tap_pairs(const struct fy_net_backend *b)
{
    return ((const struct tap *)b)->pairs;
}

static int tap_fd(const struct fy_net_backend *b, unsigned pair)
{
    return ((const struct tap *)b)->fd[pair];
}

static unsigned tap_send(struct fy_net_backend *b, unsigned pair, const struct fy_net_tx *f, unsigned n,
                         bool *gone)
{
    struct tap *t = (struct tap *)b;
    for (unsigned i = 0; i < n; i++) {
        ssize_t r;
        do
            r = writev(t->fd[pair], f[i].iov, (int)f[i].n);
        while (r < 0 && errno == EINTR);
        if (r < 0 && errno == EAGAIN)
            return i;
        /* EBADFD: the interface was deleted. Anything else is about this frame (the interface is down, say,
         * or the kernel does not like its header): as if the wire had lost it. */
        if (r < 0 && errno == EBADFD) {
            *gone = true;
            return i;
        }
    }
    return n;
}

static unsigned tap_recv(struct fy_net_backend *b, unsigned pair, struct fy_net_rx *f, unsigned max,
                         bool *gone)
{
    struct tap *t = (struct tap *)b;
    unsigned count = 0;
    while (count < max) {
        struct iovec iov[2] = {{&f[count].hdr, FY_NET_HDR_BYTES}, {f[count].data, FY_NET_FRAME_MAX}};
        ssize_t r = readv(t->fd[pair], iov, 2);
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0) {
            *gone = errno == EBADFD;
            break;
        }
        f[count].len = r > (ssize_t)FY_NET_HDR_BYTES ? (uint32_t)r - FY_NET_HDR_BYTES : 0;
        count++;
    }
    return count;
}

static void tap_configure(struct fy_net_backend *b, uint64_t features, unsigned pairs)
{
    struct tap *t = (struct tap *)b;
    unsigned flags = 0;
    if (features & FEATURE_GUEST_CSUM) {
        flags |= TUN_F_CSUM;
        flags |= features & FEATURE_GUEST_TSO4 ? TUN_F_TSO4 : 0;
        flags |= features & FEATURE_GUEST_TSO6 ? TUN_F_TSO6 : 0;
        flags |= flags & (TUN_F_TSO4 | TUN_F_TSO6) && features & FEATURE_GUEST_ECN ? TUN_F_TSO_ECN : 0;
    }
    if (ioctl(t->fd[0], TUNSETOFFLOAD, flags) < 0)
        fy_warn_limited("tap: cannot set offloads %#x: %s", flags, strerror(errno));
    for (unsigned i = 0; i < t->pairs; i++) {
        struct ifreq r = {.ifr_flags = i < pairs ? IFF_ATTACH_QUEUE : IFF_DETACH_QUEUE};
        if ((i < pairs) == (i < t->used))
            continue;
        if (ioctl(t->fd[i], TUNSETQUEUE, &r) < 0)
            fy_warn_limited("tap: cannot %s queue %u: %s", i < pairs ? "attach" : "detach", i,
                            strerror(errno));
    }
    t->used = pairs;
}

static void tap_free(struct fy_net_backend *b)
{
    struct tap *t = (struct tap *)b;
    for (unsigned i = 0; i < t->pairs; i++)
        fy_close(&t->fd[i]);
    free(t);
}

static const struct fy_net_backend_ops tap_ops = {
    .tx_offloads = true,
    .rx_offloads = true,
    .announce = true,
    .pairs = tap_pairs,
    .fd = tap_fd,
    .send = tap_send,
    .recv = tap_recv,
    .configure = tap_configure,
    .free = tap_free,
};

struct fy_net_backend *fy_net_tap_new(const int *fds, unsigned pairs, struct fy_err *e)
{
    struct tap *t = calloc(1, sizeof *t);
    bool ok = t && pairs && pairs <= FY_NET_PAIRS_MAX;
    for (unsigned i = 0; i < pairs; i++) {
        struct ifreq r;
        int fd = fds[i];
        if (ok) {
            t->fd[t->pairs++] = fd;
            ok = fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK) == 0 && ioctl(fd, TUNGETIFF, &r) == 0 &&
                 r.ifr_flags & IFF_TAP && r.ifr_flags & IFF_VNET_HDR;
        } else {
            fy_close(&fd);
        }
    }
    if (!ok) {
        if (t)
            tap_free(&t->base);
        fy_fail(e, t ? FY_EUSAGE : FY_ERESOURCE, "a card's descriptors are no tap's with headers");
        return NULL;
    }
    t->base.ops = &tap_ops;
    t->used = pairs;
    return &t->base;
}
