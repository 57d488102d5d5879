// SPDX-License-Identifier: Apache-2.0
#include "hv/backend/blk_nbd.h"

#include <errno.h>
#include <libnbd.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"

#define MAX_BLOCK (32u << 20) /* what a server that says nothing takes (the protocol's default) */
/* A TCP peer that says nothing is given up after these. */
#define IDLE_S 10
#define PROBES 3
#define PROBE_S 5
#define UNACKED_MS 25000

struct fy_nbd {
    struct nbd_handle *h;
    struct fy_nbd_facts f;
};

struct command {
    fy_nbd_done done;
    void *arg;
};

/* libnbd's sentence of this thread's last failure, without the name of its function. */
static const char *why(void)
{
    const char *text = nbd_get_error();
    const char *colon = text ? strstr(text, ": ") : NULL;
    if (!text)
        return "unknown failure";
    return !strncmp(text, "nbd_", 4) && colon ? colon + 2 : text;
}

static void keep_alive(int fd)
{
    static const struct {
        int level, name, value;
    } opts[] = {{SOL_SOCKET, SO_KEEPALIVE, 1},
                {IPPROTO_TCP, TCP_KEEPIDLE, IDLE_S},
                {IPPROTO_TCP, TCP_KEEPCNT, PROBES},
                {IPPROTO_TCP, TCP_KEEPINTVL, PROBE_S},
                {IPPROTO_TCP, TCP_USER_TIMEOUT, UNACKED_MS}};
    for (size_t i = 0; i < FY_ARRAY_LEN(opts); i++)
        setsockopt(fd, opts[i].level, opts[i].name, &opts[i].value, sizeof opts[i].value);
}

static int learn(struct fy_nbd *n, struct fy_err *e)
{
    int64_t bytes = nbd_get_size(n->h);
    int64_t min = nbd_get_block_size(n->h, LIBNBD_SIZE_MINIMUM);
    int64_t max = nbd_get_block_size(n->h, LIBNBD_SIZE_MAXIMUM);
    if (bytes < 0)
        return fy_fail(e, FY_ECORRUPT, "the server does not say its size: %s", why());
    n->f = (struct fy_nbd_facts){.bytes = (uint64_t)bytes,
                                 .read_only = nbd_is_read_only(n->h) != 0,
                                 .flush = nbd_can_flush(n->h) == 1,
                                 .trim = nbd_can_trim(n->h) == 1,
                                 .zero = nbd_can_zero(n->h) == 1,
                                 .min_block = min > 0 ? (uint32_t)min : 1,
                                 .max_block = max > 0 && max < MAX_BLOCK ? (uint32_t)max : MAX_BLOCK};
    return 0;
}

static int connect_it(struct fy_nbd *n, const struct fy_nbd_place *p, uint64_t until, struct fy_err *e)
{
    int fd = p->fd;
    if (nbd_set_export_name(n->h, p->export_name) < 0 || nbd_set_pread_initialize(n->h, false) < 0) {
        fy_close(&fd);
        return fy_fail(e, FY_EUSAGE, "%s", why());
    }
    int r = fd >= 0 ? nbd_aio_connect_socket(n->h, fd) : nbd_aio_connect_tcp(n->h, p->host, p->port);
    while (r == 0 && nbd_aio_is_connecting(n->h) == 1) {
        uint64_t now = fy_now_ns();
        if (now >= until)
            return fy_fail(e, FY_EDEADLINE, "the server does not answer");
        r = nbd_poll(n->h, (int)((until - now) / 1000000) + 1) < 0 ? -1 : 0;
    }
    if (r < 0 || nbd_aio_is_ready(n->h) != 1) {
        int err = nbd_get_errno();
        return fy_fail(
            e, err == 0 || err == ENOENT || err == EINVAL || err == EPERM ? FY_EREFUSED : FY_EUNREACHABLE,
            "%s", why());
    }
    keep_alive(nbd_aio_get_fd(n->h));
    return learn(n, e);
}

struct fy_nbd *fy_nbd_connect(const struct fy_nbd_place *p, uint64_t until_ns, struct fy_err *e)
{
    struct fy_nbd *n = calloc(1, sizeof *n);
    if (n)
        n->h = nbd_create();
    if (!n || !n->h) {
        int fd = p->fd;
        fy_close(&fd);
        free(n);
        fy_fail(e, FY_ERESOURCE, "no memory for a connection");
        return NULL;
    }
    if (connect_it(n, p, until_ns, e) < 0) {
        fy_nbd_close(n, false);
        return NULL;
    }
    return n;
}

void fy_nbd_facts(const struct fy_nbd *n, struct fy_nbd_facts *f)
{
    *f = n->f;
}

static bool alive(struct fy_nbd *n)
{
    return nbd_aio_is_dead(n->h) == 0 && nbd_aio_is_closed(n->h) == 0;
}

static int on_done(void *user_data, int *error)
{
    struct command *c = user_data;
    /* A server that is about to end has not done it. */
    bool gone = *error == ESHUTDOWN || *error == ECONNRESET || *error == EPIPE;
    c->done(c->arg, gone ? ENOTCONN : *error);
    return 1;
}

int fy_nbd_start(struct fy_nbd *n, enum fy_nbd_op op, void *buf, uint64_t offset, uint64_t bytes, bool hole,
                 fy_nbd_done done, void *arg)
{
    struct command *c = malloc(sizeof *c);
    nbd_completion_callback cb = {.callback = on_done, .user_data = c, .free = free};
    int64_t r = -1;
    if (!c)
        return ENOMEM;
    *c = (struct command){done, arg};
    switch (op) {
    case FY_NBD_READ:
        r = nbd_aio_pread(n->h, buf, bytes, offset, cb, 0);
        break;
    case FY_NBD_WRITE:
        r = nbd_aio_pwrite(n->h, buf, bytes, offset, cb, 0);
        break;
    case FY_NBD_FLUSH:
        r = nbd_aio_flush(n->h, cb, 0);
        break;
    case FY_NBD_TRIM:
        r = nbd_aio_trim(n->h, bytes, offset, cb, 0);
        break;
    case FY_NBD_ZERO:
        r = nbd_aio_zero(n->h, bytes, offset, cb, hole ? 0 : LIBNBD_CMD_FLAG_NO_HOLE);
        break;
    }
    return r >= 0 ? 0 : alive(n) ? EIO : ENOTCONN;
}

int fy_nbd_fd(struct fy_nbd *n, short *events)
{
    unsigned d = nbd_aio_get_direction(n->h);
    *events = (short)((d & LIBNBD_AIO_DIRECTION_READ ? POLLIN : 0) |
                      (d & LIBNBD_AIO_DIRECTION_WRITE ? POLLOUT : 0));
    return nbd_aio_get_fd(n->h);
}

bool fy_nbd_ready(struct fy_nbd *n, short revents)
{
    unsigned d = nbd_aio_get_direction(n->h);
    int r = 0;
    if (revents & (POLLIN | POLLHUP | POLLERR) && d & LIBNBD_AIO_DIRECTION_READ)
        r = nbd_aio_notify_read(n->h);
    else if (revents & (POLLOUT | POLLHUP | POLLERR) && d & LIBNBD_AIO_DIRECTION_WRITE)
        r = nbd_aio_notify_write(n->h);
    else if (revents & (POLLERR | POLLNVAL))
        r = -1;
    return r == 0 && alive(n);
}

void fy_nbd_close(struct fy_nbd *n, bool bye)
{
    if (!n)
        return;
    if (bye && alive(n))
        nbd_aio_disconnect(n->h, 0);
    nbd_close(n->h);
    free(n);
}
