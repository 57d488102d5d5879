// SPDX-License-Identifier: Apache-2.0
/* The small virtio devices under the fuzzer (virtio.h): the input's first byte chooses entropy, balloon,
 * sockets or console. Register accesses, bytes of guest memory, requests, packets of sockets, connections
 * from the host, pauses and resets. */
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "hv/dev/virtio_devices.h"
#include "hv/dev/virtio_vsock.h"
#include "tests/fuzz/virtio.h"

#define SLOT 2
#define BUFFERS 0x40000u
#define PORT 5000u

enum { RNG, BALLOON, VSOCK, CONSOLE, KINDS };

static unsigned kind;
static struct fy_virtio *made;
static struct fy_device console;
static const uint8_t typed[16];

static void on_room(void *arg)
{
    (void)arg;
    fy_virtio_console_output_room(made);
}

/* What the guest asks of the host is answered with one end of a pair whose other end is closed, or refused.
 */
static void on_connect(void *arg, uint32_t port, uint64_t id)
{
    int pair[2];
    (void)arg;
    if (port & 1 || socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair) < 0) {
        fy_vsock_answer(made, id, -1);
        return;
    }
    close(pair[1]);
    fy_vsock_answer(made, id, pair[0]);
}

static struct sockaddr_un place;
static socklen_t place_len;

/* An abstract name that the kernel picks. */
static int listen_somewhere(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    place = (struct sockaddr_un){.sun_family = AF_UNIX};
    place_len = sizeof place;
    MUST(fd >= 0 && bind(fd, (struct sockaddr *)&place, sizeof place.sun_family) == 0 && listen(fd, 8) == 0);
    MUST(getsockname(fd, (struct sockaddr *)&place, &place_len) == 0);
    return fd;
}

static void make_device(struct world *w, const struct world_ops *ops, struct fy_iothread *io)
{
    struct fy_err e = {0};
    world_init(w, ops);
    if (kind == RNG) {
        MUST(fy_virtio_rng_new(w->pci, w->gmem, io, SLOT, &w->f.dev, &e) == 0);
    } else if (kind == BALLOON) {
        MUST(fy_virtio_balloon_new(w->pci, w->gmem, io, SLOT, &made, &w->f.dev, &e) == 0);
    } else if (kind == CONSOLE) {
        const struct fy_console_config c = {.gate = w->gate, .room = on_room};
        MUST(fy_console_new(&c, &console, &e) == 0);
        fuzz_console = &console;
        MUST(fy_virtio_console_new(w->pci, w->gmem, io, SLOT, &made, &w->f.dev, &e) == 0);
    } else {
        struct fy_vsock_config c = {.slot = SLOT, .cid = 3, .gate = w->gate, .io = io, .connect = on_connect};
        MUST(fy_virtio_vsock_new(w->pci, w->gmem, &c, &made, &w->f.dev, &e) == 0);
        MUST(fy_vsock_listen(made, listen_somewhere(), &e) == 0);
    }
}

/* A connection from the host that says what op has of a greeting, and ends. */
static void connect_from_host(uint32_t op)
{
    char text[32];
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    int n = snprintf(text, sizeof text, op & 0x1000 ? "CONNECT %u\nx" : "CONNECT%u", op >> 16);
    if (fd >= 0 && connect(fd, (struct sockaddr *)&place, place_len) == 0)
        send(fd, text, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
    if (fd >= 0)
        close(fd);
}

/* The header of a socket's packet (virtio 1.2, 5.10.6) on the transmit queue; mostly one that is understood.
 */
static void packet(struct world *w, uint32_t op)
{
    world_poke(w, BUFFERS, op & 0x10 ? 3 : op, 8);
    world_poke(w, BUFFERS + 8, 2, 8);
    world_poke(w, BUFFERS + 16, op >> 8 & 3, 4);
    world_poke(w, BUFFERS + 20, (op & 0x20 ? 0x40000000u : PORT) + (op >> 10 & 3), 4);
    world_poke(w, BUFFERS + 24, op >> 12 & 0x7fff, 4);
    world_poke(w, BUFFERS + 28, 1 | (op >> 27 & 15) << 16, 4);
    world_poke(w, BUFFERS + 32, op >> 5 & 3, 4);
    world_poke(w, BUFFERS + 36, op & 0x40 ? 0 : 65536, 4);
    world_descriptor(w, 1, 0, 1, BUFFERS, 44 + (op >> 12 & 0x3fff), false);
    world_available(w, 1);
}

static void request(struct world *w, uint32_t op)
{
    unsigned q = op >> 3 & 3;
    bool in = kind == RNG || (kind == BALLOON && q == 3) || (kind == VSOCK && q != 1) ||
              (kind == CONSOLE && q == 0);
    if (kind == VSOCK && q == 1) {
        packet(w, op);
        return;
    }
    /* page numbers, or statistics, of a balloon */
    world_poke(w, BUFFERS + (op >> 5 & 63), op >> 8, 4);
    /* Mostly short: a balloon does a system call for each number. */
    const uint32_t most = op >> 26 ? 0x3f : 0x3ffff;
    world_descriptor(w, q, 0, 1, BUFFERS, op >> 12 & most, in);
    world_available(w, q);
}

static void balloon_op(uint32_t op)
{
    struct fy_balloon_status s;
    if (op & 0x2000)
        fy_balloon_set_target(made, (uint64_t)(op >> 14) << 12);
    fy_balloon_status(made, &s);
    MUST(s.target <= WORLD_MEMORY);
}

static void control(struct world *w, uint32_t op)
{
    (void)w;
    if (kind == BALLOON)
        balloon_op(op);
    else if (kind == VSOCK)
        connect_from_host(op);
    else if (kind == CONSOLE)
        fy_virtio_console_input(made, typed, op >> 20 & 15);
}

static void set_up(struct world *w, uint32_t op)
{
    static const unsigned queues[KINDS] = {[RNG] = 1, [BALLOON] = 4, [VSOCK] = 3, [CONSOLE] = 2};
    world_queues(w, queues[kind], op & 2 ? ~0u : op >> 2, op & 1);
}

const struct fuzz_loads fuzz_loads = {
    .head = 1,
    .counted = true,
    .kinds = KINDS,
    .kind = {
        [RNG] = {"rng", &ferry__virtio_device__descriptor, NULL},
        [BALLOON] = {"balloon", &ferry__virtio_device__descriptor, &ferry__virtio_balloon__descriptor},
        [VSOCK] = {"vsock", &ferry__virtio_device__descriptor, &ferry__virtio_vsock__descriptor},
        [CONSOLE] = {"vconsole", &ferry__virtio_device__descriptor, &ferry__virtio_console__descriptor}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fy_iothread *io; /* for all inputs: a thread costs more than most of them */
    struct world w;
    struct fy_err e = {0};
    if (!size)
        return 0;
    kind = fuzz_kind(data[0]);
    if (!io)
        io = fy_iothread_new("fuzz", &e);
    MUST(io);
    const struct world_ops ops = {
        .kind = kind, .slot = SLOT, .set_up = set_up, .control = control, .request = request};
    make_device(&w, &ops, io);
    world_run(&w, data + 1, size - 1);
    world_settle(&w);
    world_free(&w);
    if (kind == CONSOLE) {
        fuzz_console = NULL;
        console.ops->free(console.dev);
    }
    return 0;
}
