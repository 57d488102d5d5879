// SPDX-License-Identifier: Apache-2.0
/* Viewers of the console: stream sockets, output to all of them, input from all of them. What a viewer does
 * not read at once is kept for it, up to a limit; beyond that it loses bytes. It never holds up the guest. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/control/internal.h"
#include "hv/dev/chips.h"

#define INPUT_CHUNK 4096
#define BACKLOG_MAX (1u << 20)
#define BACKLOG_FIRST 4096u

static void viewer_close(struct fy_viewer *v)
{
    struct fy_server *s = v->s;
    fy_machine_console_lock(s->m);
    struct fy_viewer **at = &s->viewers;
    while (*at != v)
        at = &(*at)->next;
    *at = v->next;
    fy_machine_console_unlock(s->m);
    s->viewer_count--;
    fy_watch_free(v->watch);
    fy_watch_free(v->drain);
    fy_close(&v->sock);
    free(v->backlog);
    free(v);
}

static void on_input(int sock, unsigned ready, void *arg)
{
    (void)ready;
    struct fy_viewer *v = arg;
    uint8_t buf[INPUT_CHUNK];
    size_t room = FY_MIN(fy_machine_console_room(v->s->m), sizeof buf);
    if (room == 0) {
        /* Leave the bytes in the socket until the guest has read some. */
        fy_watch_free(v->watch);
        v->watch = NULL;
        return;
    }
    ssize_t n = recv(sock, buf, room, MSG_DONTWAIT);
    if (n > 0)
        fy_machine_console_input(v->s->m, buf, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        viewer_close(v);
}

static void on_room(void *arg)
{
    struct fy_server *s = arg;
    __atomic_store_n(&s->room_posted, false, __ATOMIC_SEQ_CST);
    for (struct fy_viewer *v = s->viewers; v; v = v->next)
        if (!v->watch)
            v->watch = fy_watch_fd(s->loop, v->sock, FY_READ, on_input, v, NULL);
}

void fy_server_console_room(struct fy_server *s)
{
    if (!__atomic_exchange_n(&s->room_posted, true, __ATOMIC_SEQ_CST) &&
        fy_loop_post(s->loop, on_room, s, NULL) < 0)
        __atomic_store_n(&s->room_posted, false, __ATOMIC_SEQ_CST);
}

/* The socket has room again. A serial port's single bytes fill a socket's buffer quickly, each with a header
 * of its own; what was kept goes in large pieces. */
static void on_drain(int sock, unsigned ready, void *arg)
{
    (void)ready;
    struct fy_viewer *v = arg;
    struct fy_machine *m = v->s->m;
    fy_machine_console_lock(m);
    ssize_t n = send(sock, v->backlog, v->kept, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (n > 0) {
        v->kept -= (size_t)n;
        memmove(v->backlog, v->backlog + n, v->kept);
    } else if (n < 0 && errno != EAGAIN && errno != EINTR) {
        v->kept = 0; /* the reading side finds out that the viewer has gone */
    }
    bool done = v->kept == 0;
    fy_machine_console_unlock(m);
    if (done) {
        fy_watch_free(v->drain);
        v->drain = NULL;
    }
}

static void on_backlog(void *arg)
{
    struct fy_server *s = arg;
    __atomic_store_n(&s->backlog_posted, false, __ATOMIC_SEQ_CST);
    fy_machine_console_lock(s->m);
    for (struct fy_viewer *v = s->viewers; v; v = v->next)
        if (v->kept && !v->drain)
            v->drain = fy_watch_fd(s->loop, v->sock, FY_WRITE, on_drain, v, NULL);
    fy_machine_console_unlock(s->m);
}

/* Keep bytes for a viewer, as many as the limit lets. The console lock is held. */
static void keep(struct fy_viewer *v, const uint8_t *buf, size_t len)
{
    len = FY_MIN(len, BACKLOG_MAX - v->kept);
    if (v->kept + len > v->room) {
        size_t room = FY_MAX(v->room * 2, BACKLOG_FIRST);
        while (room < v->kept + len)
            room *= 2;
        uint8_t *more = realloc(v->backlog, room);
        if (!more)
            return;
        v->backlog = more;
        v->room = room;
    }
    memcpy(v->backlog + v->kept, buf, len);
    v->kept += len;
    struct fy_server *s = v->s;
    if (!__atomic_exchange_n(&s->backlog_posted, true, __ATOMIC_SEQ_CST) &&
        fy_loop_post(s->loop, on_backlog, s, NULL) < 0)
        __atomic_store_n(&s->backlog_posted, false, __ATOMIC_SEQ_CST);
}

void fy_server_console_out(struct fy_server *s, const uint8_t *buf, size_t len)
{
    for (struct fy_viewer *v = s->viewers; v; v = v->next) {
        ssize_t n = v->kept ? 0 : send(v->sock, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
        size_t sent = n > 0 ? (size_t)n : 0;
        if (sent < len)
            keep(v, buf + sent, len - sent);
    }
}

int fy_console_attach(struct fy_server *s, const Ferry__ConsoleAttachRequest *op, struct fy_answer *a,
                      struct fy_err *e)
{
    int sv[2];
    uint64_t position = 0;
    Ferry__ConsoleAttachReply *reply = &a->u.console_attach;
    if (s->viewer_count == FY_VIEWERS_MAX)
        return fy_fail(e, FY_ERESOURCE, "the console has %d viewers already", FY_VIEWERS_MAX);
    struct fy_viewer *v = calloc(1, sizeof *v);
    uint8_t *back = malloc(FY_CONSOLE_SCROLLBACK);
    if (!v || !back || socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sv) < 0) {
        free(v);
        free(back);
        return fy_fail(e, FY_ERESOURCE, "no memory for a console viewer");
    }
    v->s = s;
    v->sock = sv[0];
    v->watch = fy_watch_fd(s->loop, sv[0], FY_READ, on_input, v, e);
    if (!v->watch) {
        close(sv[0]);
        close(sv[1]);
        free(v);
        free(back);
        return -1;
    }
    /* Under the lock nothing is output, so that what follows joins the scrollback without a gap. */
    fy_machine_console_lock(s->m);
    uint64_t after = op->scrollback ? op->after : UINT64_MAX;
    size_t n = fy_machine_scrollback(s->m, after, back, FY_CONSOLE_SCROLLBACK, &position);
    ssize_t sent = n ? send(sv[0], back, n, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
    if (sent < (ssize_t)n)
        keep(v, back + FY_MAX(sent, 0), n - (size_t)FY_MAX(sent, 0));
    v->next = s->viewers;
    s->viewers = v;
    fy_machine_console_unlock(s->m);
    free(back);
    s->viewer_count++;
    a->fd = sv[1];
    a->close_fd = true;
    ferry__console_attach_reply__init(reply);
    reply->position = position;
    a->resp.op_case = FERRY__RESPONSE__OP_CONSOLE_ATTACH;
    a->resp.console_attach = reply;
    return 0;
}

void fy_console_close_all(struct fy_server *s)
{
    /* Each takes itself off the list, which clang-tidy loses sight of. */
    while (s->viewers)
        viewer_close(s->viewers); // NOLINT(clang-analyzer-unix.Malloc)
}
