// SPDX-License-Identifier: Apache-2.0
/* The control socket of ferry-hv. The input is a byte (1: an incoming guest, 2: one that starts paused), then
 * a row of requests {length u16, flags u8, bytes}: to a server with a machine whose vCPUs execute nothing,
 * over one of two connections. Flags: 1 the second connection, 2 with the machine's own state as a descriptor
 * (and its length in the request), 4 with a descriptor of the request's bytes, 8 close the connection first.
 */
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/control/internal.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/still.h"

static struct fy_loop *loop;

struct client {
    int sock;
    struct fy_watch *watch;
    struct guest *g;
    bool waits; /* for the answer to its request */
    uint64_t id;
};

struct guest {
    struct fy_machine *m;
    struct fy_life life;
    struct fy_server *server;
    struct sockaddr_un at;
    socklen_t at_len;
    struct client clients[2];
};

static void on_ended(void *arg)
{
    fy_life_ended(&((struct guest *)arg)->life);
}

static void hang_up(struct client *c)
{
    fy_watch_free(c->watch);
    c->watch = NULL;
    fy_close(&c->sock);
}

static void check_answer(const struct client *c, const Ferry__Response *r, int nfds)
{
    MUST(r->id == c->id);
    if (r->error) {
        MUST(r->error->code >= FY_EFAIL && r->error->code <= FY_ECRASHED && r->error->text[0]);
        MUST(r->op_case == FERRY__RESPONSE__OP__NOT_SET && nfds == 0);
        return;
    }
    MUST(r->op_case != FERRY__RESPONSE__OP__NOT_SET && nfds <= 1);
    if (r->op_case == FERRY__RESPONSE__OP_MEMORY || r->op_case == FERRY__RESPONSE__OP_SAVE_STATE ||
        r->op_case == FERRY__RESPONSE__OP_TRACKER_OPEN)
        MUST(nfds == 1);
}

static void on_answer(int sock, unsigned ready, void *arg)
{
    (void)ready;
    struct client *c = arg;
    static uint8_t buf[FY_MSG_MAX];
    int fds[FY_MSG_FDS];
    int nfds = FY_MSG_FDS;
    long n = fy_msg_recv(sock, buf, fds, &nfds, NULL);
    if (n == -2)
        return;
    if (n <= 0) {
        hang_up(c);
        fy_loop_stop(loop);
        return;
    }
    Ferry__ControlOut *out = ferry__control_out__unpack(NULL, (size_t)n, buf);
    MUST(out);
    if (out->kind_case == FERRY__CONTROL_OUT__KIND_RESPONSE) {
        MUST(c->waits);
        check_answer(c, out->response, nfds);
        c->waits = false;
        fy_loop_stop(loop);
    } else {
        MUST(out->kind_case == FERRY__CONTROL_OUT__KIND_EVENT && nfds == 0);
    }
    for (int i = 0; i < nfds; i++)
        close(fds[i]);
    ferry__control_out__free_unpacked(out, NULL);
}

static void dial(struct guest *g, struct client *c)
{
    c->g = g;
    c->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    MUST(c->sock >= 0 && connect(c->sock, (struct sockaddr *)&g->at, g->at_len) == 0);
    fcntl(c->sock, F_SETFL, O_NONBLOCK);
    c->watch = fy_watch_fd(loop, c->sock, FY_READ, on_answer, c, NULL);
    MUST(c->watch);
}

static void open_guest(struct guest *g, unsigned how)
{
    static const uint8_t run_id[16] = "run";
    struct fy_err e = {0};
    memset(g, 0, sizeof *g);
    g->m = still_machine(loop, -1, on_ended, g);
    fy_life_init(&g->life, g->m, how & 1, how & 2);
    int sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    g->at.sun_family = AF_UNIX;
    g->at_len = sizeof g->at;
    /* A name that the kernel picks, in no directory. */
    MUST(sock >= 0 && bind(sock, (struct sockaddr *)&g->at, sizeof(sa_family_t)) == 0);
    MUST(listen(sock, 8) == 0 && getsockname(sock, (struct sockaddr *)&g->at, &g->at_len) == 0);
    g->server = fy_server_new(loop, sock, &g->life, run_id, &e);
    MUST(g->server);
    g->life.changed = fy_server_changed;
    g->life.arg = g->server;
    fy_life_start(&g->life);
    for (int i = 0; i < 2; i++)
        g->clients[i].sock = -1;
}

static void close_guest(struct guest *g)
{
    for (int i = 0; i < 2; i++)
        hang_up(&g->clients[i]);
    fy_server_free(g->server);
    MUST(g->life.leases == 0 || g->life.finish || g->life.latched || g->life.stopped);
    fy_machine_free(g->m);
}

/* Nobody but the rules of hv/vm/life.h lets vCPUs run. */
static void check_rules(struct guest *g)
{
    const struct fy_life *l = &g->life;
    bool held =
        l->incoming || l->latched || l->user_paused || l->leases || l->stopped || l->crashed || l->finish;
    MUST(fy_machine_running(g->m) == !held);
    MUST(!l->latched || l->has_handover_id);
    MUST(l->leases <= 2);
}

static int memfd_of(const uint8_t *buf, size_t len)
{
    int fd = memfd_create("ferry-fuzz", MFD_CLOEXEC);
    MUST(fd >= 0 && fy_pwrite_all(fd, buf, len, 0) == 0);
    return fd;
}

/* The state of a machine as it is made, in a descriptor. */
static int own_state(size_t *len)
{
    static uint8_t *state;
    static size_t state_len;
    if (!state) {
        struct fy_err e;
        struct fy_machine *m = still_machine(loop, -1, NULL, NULL);
        MUST(fy_machine_save(m, &state, &state_len, &e) == 0);
        fy_machine_free(m);
    }
    *len = state_len;
    return memfd_of(state, state_len);
}

static void request(struct guest *g, unsigned flags, const uint8_t *bytes, size_t len)
{
    static uint8_t mended[FY_MSG_MAX];
    struct client *c = &g->clients[flags & 1];
    int fd = -1;
    size_t state_len = 0;
    if (flags & 8)
        hang_up(c);
    if (c->sock < 0)
        dial(g, c);
    if (flags & 2)
        fd = own_state(&state_len);
    else if (flags & 4)
        fd = memfd_of(bytes, len);
    Ferry__Request *q = ferry__request__unpack(NULL, len, bytes);
    c->id = q ? q->id : 0;
    if (q && flags & 2 && q->op_case == FERRY__REQUEST__OP_LOAD_STATE &&
        ferry__request__get_packed_size(q) + 16 <= sizeof mended) {
        q->load_state->bytes = state_len;
        len = ferry__request__pack(q, mended);
        bytes = mended;
    }
    if (q)
        ferry__request__free_unpacked(q, NULL);
    c->waits = true;
    if (len && fy_msg_send(c->sock, bytes, len, &fd, fd >= 0, NULL) == 0)
        while (c->waits && c->sock >= 0)
            MUST(fy_loop_run(loop, NULL) == 0);
    c->waits = false;
    fy_close(&fd);
    check_rules(g);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct guest g;
    if (!size)
        return 0;
    if (!loop) {
        setenv("FERRY_LOG", "error", 1);
        loop = fy_loop_new(NULL);
        MUST(loop);
    }
    open_guest(&g, data[0]);
    check_rules(&g);
    data++;
    size--;
    for (unsigned n = 0; size > 3 && n < 64 && !g.life.finish; n++) {
        size_t len = fy_get16(data);
        unsigned flags = data[2];
        data += 3;
        size -= 3;
        len = len < size ? len : size;
        request(&g, flags, data, len);
        data += len;
        size -= len;
    }
    close_guest(&g);
    return 0;
}
