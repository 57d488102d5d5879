// SPDX-License-Identifier: Apache-2.0
/* The network card under the fuzzer (virtio.h): register accesses, bytes of guest memory (where the rings are
 * too), frames to send, buffers, control commands, frames from the network with headers of any kind, pauses
 * and resets. What it sends has a header that asks for nothing but what a backend takes. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/backend/net.h"
#include "hv/dev/virtio_net.h"
#include "tests/fuzz/virtio.h"

#define SLOT 20
#define DATA 0x40000u
#define QUEUES 3u

static int wire; /* the network's end */

static void make_card(struct world *w, const struct world_ops *ops)
{
    struct fy_err e = {0};
    int sv[2];
    world_init(w, ops);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv) == 0);
    wire = sv[1];
    struct fy_virtio_net_config c = {.id = "net0",
                                     .slot = SLOT,
                                     .mac = {2, 0, 0, 0, 0, 1},
                                     .pairs = 1,
                                     .mtu = 1500,
                                     .backend = fy_net_sock_new(sv[0], &e),
                                     .gate = w->gate};
    MUST(c.backend && fy_virtio_net_new(w->pci, w->gmem, &c, &w->f.dev, &e) == 0);
}

/* Features chosen by op. */
static void set_up(struct world *w, uint32_t op)
{
    const uint32_t known = 0x30000000u | 0xef3faffu;
    world_queues(w, QUEUES, op & 2 ? known : known & (op >> 2 | 0x20000), op & 1);
}

/* Of a split ring: descriptors from 0 on, n of them, to queue q; lens[i] bytes from DATA on; the last `in`
 * are written. */
static void request(struct world *w, unsigned q, const uint32_t *lens, unsigned n, unsigned in)
{
    uint64_t at = DATA + q * 0x20000ull;
    for (unsigned i = 0; i < n; i++) {
        world_descriptor(w, q, i, n, at, lens[i], i >= n - in);
        at += lens[i];
    }
    world_available(w, q);
}

static void driver(struct world *w, uint32_t op)
{
    const uint32_t v = op >> 8;
    switch (op >> 5 & 7) {
    case 0: { /* a buffer or two */
        const uint32_t lens[2] = {v & 0xfff, v >> 12 & 0xfff};
        request(w, 0, lens, 2, v & 1 ? 2 : 1);
        break;
    }
    case 1:
    case 2: { /* a frame */
        const uint32_t lens[2] = {v & 15 ? 12 : v >> 4 & 31, v >> 4 & 0xffff};
        world_poke(w, DATA + 0x20000, v & 0xff, 2);
        world_poke(w, DATA + 0x20002, (uint64_t)(v >> 8) * 0x010001010101ull, 8);
        request(w, 1, lens, 2, 0);
        break;
    }
    case 3:
    case 4: { /* a command */
        const uint32_t lens[3] = {2, v >> 8 & 0x3ff, 1};
        world_poke(w, DATA + 0x40000, (v & 7) | (v >> 3 & 7) << 8, 2);
        world_poke(w, DATA + 0x40002, v >> 10, 8);
        request(w, 2, lens, 3, 1);
        break;
    }
    default: { /* from the network */
        uint8_t buf[4096] = {0};
        buf[0] = (uint8_t)(v & 3);
        buf[1] = (uint8_t)(v & 4 ? 0 : v >> 3 & 0x87);
        fy_put16(buf + 4, (uint16_t)(v >> 8));
        fy_put16(buf + 6, (uint16_t)(v >> 6));
        buf[12] = v & 8 ? 0xff : 2;
        buf[17] = 1;
        if (v & 0x20) { /* by way of another host */
            struct fy_err e;
            uint8_t late[8 + sizeof buf] = {0};
            memcpy(late + 8, buf, sizeof buf);
            fy_virtio_net_late(&w->f.dev, late, v >> 12 & 0xfff, &e);
            break;
        }
        send(wire, buf, v >> 12 & 0xfff, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    }
}

static void look_at_wire(void)
{
    static uint8_t buf[FY_NET_HDR_BYTES + FY_NET_FRAME_MAX + 1];
    ssize_t n;
    while ((n = recv(wire, buf, sizeof buf, MSG_DONTWAIT)) > 0) {
        struct fy_net_hdr h;
        MUST(n >= (ssize_t)(FY_NET_HDR_BYTES + FY_NET_FRAME_MIN) && n < (ssize_t)sizeof buf);
        memcpy(&h, buf, sizeof h);
        MUST(fy_net_hdr_ok(&h, (uint32_t)n - FY_NET_HDR_BYTES) && h.num_buffers == 0);
    }
}

static void control(struct world *w, uint32_t op)
{
    if (op & 0x1000)
        fy_virtio_net_set_rate(&w->f.dev, (uint64_t)(op >> 16) << 10);
    else
        look_at_wire();
}

const struct fuzz_loads fuzz_loads = {
    .counted = true,
    .kinds = 1,
    .kind = {{"net", &ferry__virtio_device__descriptor, &ferry__virtio_net__descriptor}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct world_ops ops = {
        .slot = SLOT, .set_up = set_up, .control = control, .request = driver};
    struct world w;
    make_card(&w, &ops);
    world_run(&w, data, size);
    world_settle(&w);
    look_at_wire();
    world_free(&w);
    close(wire);
    return 0;
}
