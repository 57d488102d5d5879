// SPDX-License-Identifier: Apache-2.0
/* Viewers of the console: stream sockets, output to all of them, input from all of them. A viewer that does
 * not read loses bytes; it never holds up the guest. */
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/control/internal.h"
#include "hv/dev/chips.h"

#define INPUT_CHUNK 4096

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
    fy_close(&v->sock);
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

void fy_server_console_out(struct fy_server *s, const uint8_t *buf, size_t len)
{
    for (struct fy_viewer *v = s->viewers; v; v = v->next)
        (void)!send(v->sock, buf, len, MSG_DONTWAIT | MSG_NOSIGNAL);
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
    /* Small sends cost far more than their bytes in a socket's buffer; 1 MiB holds a busy screenful and the
     * scrollback. */
    int size = 1 << 20;
    setsockopt(sv[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof size);
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
    if (n)
        (void)!send(sv[0], back, n, MSG_DONTWAIT | MSG_NOSIGNAL);
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
