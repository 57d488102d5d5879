// SPDX-License-Identifier: Apache-2.0
/* ferry-net: the user network of one guest. Descriptor 3: frames, from and to ferry-hv; 4: ferryd. It lives
 * as long as the guest holds its end of 3, also without ferryd. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/backend/net_slirp.h"
#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/base/msg.h"
#include "hv/dev/net_backend.h"
#include "hv/sandbox/sandbox.h"
#include "proto/net.pb-c.h"

#define FRAMES_FD 3
#define CONTROL_FD 4
#define BATCH 32u
#define OUT_MAX 1024u   /* frames that wait for the guest; more are lost, as on a wire */
#define OUT_ENOUGH 256u /* from here on nothing more is fetched for it */
#define POLLS_MAX 4096u
#define RETRY_MS 250u
#define RETRY_MAX_MS 4000u

struct out {
    struct fy_net_hdr hdr;
    uint32_t len;
    uint8_t *data;
};

struct net {
    struct fy_slirp *slirp;
    Ferry__NetRequest *request; /* with the card; owned */
    int control;
    struct out out[OUT_MAX];
    unsigned first, count;
    bool ended;
    /* forwards: still to be opened */
    bool *open;
    bool asked; /* to open them */
    bool forwarding;
    uint64_t retry_ns;
    unsigned retry_ms;
};

static void on_frame(void *arg, const uint8_t *frame, size_t len)
{
    struct net *n = arg;
    if (n->count == OUT_MAX || len > FY_NET_FRAME_MAX)
        return;
    struct out *o = &n->out[(n->first + n->count) % OUT_MAX];
    o->data = malloc(len);
    if (!o->data)
        return;
    memcpy(o->data, frame, len);
    o->len = (uint32_t)len;
    o->hdr = (struct fy_net_hdr){.flags = FY_NET_DATA_VALID}; /* the stack has just made its checksums */
    n->count++;
}

static void flush(struct net *n)
{
    while (n->count && !n->ended) {
        struct mmsghdr m[BATCH];
        struct iovec iov[BATCH][2];
        unsigned batch = FY_MIN(n->count, BATCH);
        memset(m, 0, sizeof m);
        for (unsigned i = 0; i < batch; i++) {
            struct out *o = &n->out[(n->first + i) % OUT_MAX];
            iov[i][0] = (struct iovec){&o->hdr, sizeof o->hdr};
            iov[i][1] = (struct iovec){o->data, o->len};
            m[i].msg_hdr = (struct msghdr){.msg_iov = iov[i], .msg_iovlen = 2};
        }
        int sent = sendmmsg(FRAMES_FD, m, batch, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent < 0 && (errno == EAGAIN || errno == EINTR || errno == ENOBUFS))
            return;
        n->ended = sent < 0;
        for (int i = 0; i < sent; i++) {
            free(n->out[n->first].data);
            n->first = (n->first + 1) % OUT_MAX;
            n->count--;
        }
    }
}

/* Frames of the guest. They are a guest's: each is checked before the stack sees it. */
static void take_frames(struct net *n)
{
    static uint8_t data[BATCH][FY_NET_FRAME_MAX];
    struct fy_net_hdr hdr[BATCH];
    struct mmsghdr m[BATCH];
    struct iovec iov[BATCH][2];
    memset(m, 0, sizeof m);
    for (unsigned i = 0; i < BATCH; i++) {
        iov[i][0] = (struct iovec){&hdr[i], sizeof hdr[i]};
        iov[i][1] = (struct iovec){data[i], sizeof data[i]};
        m[i].msg_hdr = (struct msghdr){.msg_iov = iov[i], .msg_iovlen = 2};
    }
    int got = recvmmsg(FRAMES_FD, m, BATCH, MSG_DONTWAIT, NULL);
    if (got < 0) {
        n->ended = errno != EAGAIN && errno != EINTR;
        return;
    }
    for (int i = 0; i < got; i++) {
        if (m[i].msg_len == 0) {
            n->ended = true;
            return;
        }
        uint32_t len = m[i].msg_len > FY_NET_HDR_BYTES ? m[i].msg_len - FY_NET_HDR_BYTES : 0;
        if (len < FY_NET_FRAME_MIN || m[i].msg_hdr.msg_flags & MSG_TRUNC || !fy_net_hdr_ok(&hdr[i], len) ||
            !fy_net_finish_csum(&hdr[i], data[i], len))
            continue;
        fy_slirp_input(n->slirp, data[i], len);
    }
}

static void tell(struct net *n, const char *warning)
{
    Ferry__NetEvent ev = FERRY__NET_EVENT__INIT;
    uint8_t buf[2 * FY_ERR_TEXT];
    struct fy_err e;
    ev.warning = (char *)(uintptr_t)warning;
    ev.ready = true;
    if (n->control >= 0 && ferry__net_event__get_packed_size(&ev) <= sizeof buf)
        fy_msg_send(n->control, buf, ferry__net_event__pack(&ev, buf), NULL, 0, &e);
}

static void open_forwards(struct net *n)
{
    const Ferry__Nic *nic = n->request->nic;
    char said[FY_ERR_TEXT] = "";
    struct fy_err e;
    n->forwarding = false;
    for (size_t i = 0; i < nic->n_forwards; i++) {
        if (n->open[i] || (n->open[i] = fy_slirp_forward(n->slirp, nic->forwards[i], &e) == 0))
            continue;
        size_t at = strlen(said);
        snprintf(said + at, sizeof said - at, "%s%.200s", at ? "; " : "", e.text);
        n->forwarding = true;
    }
    if (n->forwarding) {
        n->retry_ns = fy_now_ns() + n->retry_ms * 1000000ull;
        n->retry_ms = FY_MIN(2 * n->retry_ms, RETRY_MAX_MS);
        fy_warn("%s; trying again", said);
    }
    tell(n, said);
}

static void on_control(struct net *n)
{
    static uint8_t buf[FY_MSG_MAX];
    struct fy_err e;
    int none = 0;
    long len = fy_msg_recv(n->control, buf, NULL, &none, &e);
    if (len == -2)
        return;
    if (len <= 0) {
        /* The guest goes on without ferryd, and so does its network; but one that nobody can ask any more to
         * open its forwards is of no use: the next ferryd starts another. */
        fy_close(&n->control);
        n->ended = n->request->nic->n_forwards && !n->asked;
        return;
    }
    Ferry__NetRequest *r = ferry__net_request__unpack(NULL, (size_t)len, buf);
    if (r && r->forward) {
        n->retry_ms = RETRY_MS;
        n->asked = true;
        open_forwards(n);
    }
    if (r)
        ferry__net_request__free_unpacked(r, NULL);
}

static void serve(struct net *n)
{
    static struct pollfd fds[POLLS_MAX];
    while (!n->ended) {
        int timeout = -1;
        unsigned more = 0;
        bool room = n->count < OUT_ENOUGH;
        fds[0] = (struct pollfd){.fd = FRAMES_FD, .events = (short)(POLLIN | (n->count ? POLLOUT : 0))};
        fds[1] = (struct pollfd){.fd = n->control, .events = POLLIN};
        if (n->forwarding) {
            uint64_t now = fy_now_ns();
            timeout = n->retry_ns > now ? (int)((n->retry_ns - now) / 1000000) + 1 : 0;
        }
        if (room)
            more = fy_slirp_fill(n->slirp, fds + 2, POLLS_MAX - 2, &timeout);
        int r = poll(fds, 2 + more, timeout);
        if (r < 0 && errno != EINTR)
            break;
        if (r > 0 && fds[1].revents)
            on_control(n);
        if (r > 0 && fds[0].revents & (POLLIN | POLLHUP | POLLERR))
            take_frames(n);
        if (room)
            fy_slirp_serve(n->slirp, fds + 2, more, r < 0);
        if (n->forwarding && fy_now_ns() >= n->retry_ns)
            open_forwards(n);
        flush(n);
    }
}

/* Its user: outside of what systems give to others, new for each process. It needs sockets and
 * /etc/resolv.conf. */
static int isolate(struct fy_err *e)
{
    uint32_t layers;
    const struct fy_sandbox_wants wants = {
        .uid = 0x68000000u | ((uint32_t)getpid() & 0xffffffu), .connect = true, .listen = true};
    if (fy_sandbox_process(&wants, &layers, e) < 0)
        return -1;
    fy_sandbox_thread(FY_SANDBOX_NET);
    return 0;
}

static int start(struct net *n, struct fy_err *e)
{
    static uint8_t buf[FY_MSG_MAX];
    int none = 0;
    long len = fy_msg_recv(CONTROL_FD, buf, NULL, &none, e);
    n->request = len > 0 ? ferry__net_request__unpack(NULL, (size_t)len, buf) : NULL;
    if (!n->request || !n->request->nic)
        return fy_fail(e, FY_EUSAGE, "no card is described (ferryd starts this program)");
    n->open = calloc(n->request->nic->n_forwards + 1, sizeof *n->open);
    n->slirp = fy_slirp_new(n->request->nic->mtu, on_frame, n, e);
    if (!n->open || !n->slirp)
        return -1;
    fcntl(CONTROL_FD, F_SETFL, fcntl(CONTROL_FD, F_GETFL) | O_NONBLOCK);
    n->control = CONTROL_FD;
    n->retry_ms = RETRY_MS;
    n->asked = n->request->forward;
    if (n->asked)
        open_forwards(n);
    else
        tell(n, "");
    return 0;
}

int main(int argc, char **argv)
{
    static struct net n;
    struct fy_err e = {.code = 0};
    fy_log_init("ferry-net", FY_LOG_INFO);
    signal(SIGPIPE, SIG_IGN);
    if (argc == 2 && !strcmp(argv[1], "--version")) {
        puts(FERRY_VERSION);
        return 0;
    }
    if (isolate(&e) < 0 || start(&n, &e) < 0) {
        fy_error("%s", e.text);
        return e.code ? e.code : FY_EFAIL;
    }
    serve(&n);
    fy_slirp_free(n.slirp);
    while (n.count) {
        free(n.out[n.first].data);
        n.first = (n.first + 1) % OUT_MAX;
        n.count--;
    }
    ferry__net_request__free_unpacked(n.request, NULL);
    free(n.open);
    return 0;
}
