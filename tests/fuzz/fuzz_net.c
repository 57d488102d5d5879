// SPDX-License-Identifier: Apache-2.0
/* The network card under the fuzzer: the input is {u16 length, state message, operations of 4 bytes}. The
 * state is loaded into a paused card; then come register accesses, bytes of guest memory (where the rings are
 * too), frames to send, buffers, control commands, frames from the network with headers of any kind, pauses
 * and resets; then the card must save a state that it loads again unchanged. What it sends has a header that
 * asks for nothing but what a backend takes. */
#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "hv/backend/net.h"
#include "hv/base/checked.h"
#include "hv/dev/virtio_net.h"
#include "proto/wire.h"
#include "tests/fuzz/device.h"
#include "tests/unit/memory_fixture.h"

#define SLOT 20
#define MEMORY (2u << 20)
#define RINGS 0x10000u
#define RING_ROOM 0x4000u
#define DATA 0x40000u
#define QUEUES 3u
#define SIZE 16u
#define OPS 400

struct world {
    struct fuzz_device f; /* f.dev is the card */
    struct fy_gmem *gmem;
    struct fy_pci *pci;
    struct fy_device pci_dev;
    struct fy_gate *gate;
    int wire;
    bool paused;
};

static void fz_msi(void *arg, uint64_t address, uint32_t data)
{
    (void)arg;
    (void)address;
    (void)data;
}

static void world_init(struct world *w)
{
    struct fy_err e = {0};
    int sv[2];
    memset(w, 0, sizeof *w);
    fuzz_device_init(&w->f);
    w->f.host.msi = fz_msi;
    w->gmem = fx_memory(MEMORY, &e);
    w->gate = fy_gate_new(&e);
    MUST(w->gmem && w->gate);
    MUST(fy_pci_new(w->f.bus, &w->f.host, &w->pci_dev, &w->pci, &e) == 0);
    MUST(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK, 0, sv) == 0);
    w->wire = sv[1];
    struct fy_virtio_net_config c = {.id = "net0",
                                     .slot = SLOT,
                                     .mac = {2, 0, 0, 0, 0, 1},
                                     .pairs = 1,
                                     .mtu = 1500,
                                     .backend = fy_net_sock_new(sv[0], &e),
                                     .gate = w->gate};
    MUST(c.backend && fy_virtio_net_new(w->pci, w->gmem, &c, &w->f.dev, &e) == 0);
    w->paused = true;
}

static void set_paused(struct world *w, bool paused)
{
    if (w->paused == paused)
        return;
    w->paused = paused;
    if (paused)
        w->f.dev.ops->pause(w->f.dev.dev);
    else
        w->f.dev.ops->resume(w->f.dev.dev);
}

/* BAR 0 is wherever the state or the operations have put it. */
static uint64_t bar(struct world *w)
{
    fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcf8, 4, 0x80000000u | SLOT << 11 | 0x10);
    return fy_bus_read(w->f.bus, FY_SPACE_PORT, 0xcfc, 4) & ~0xfull;
}

static void poke(struct world *w, uint64_t at, uint64_t value, unsigned size)
{
    uint8_t *p = fy_gmem_at(w->gmem, at, size);
    uint8_t buf[8];
    fy_put64(buf, value);
    for (unsigned i = 0; p && i < size; i++)
        __atomic_store_n(p + i, buf[i], __ATOMIC_RELAXED);
}

static void write_bar(struct world *w, uint64_t offset, unsigned size, uint64_t value)
{
    fy_bus_write(w->f.bus, FY_SPACE_MMIO, bar(w) + offset, size, value);
}

/* Set the queues up as a driver would, split or packed, with features chosen by op. */
static void set_up(struct world *w, uint32_t op)
{
    uint32_t features = 0x30000000u | 0xef3faffu;
    write_bar(w, 20, 1, 0);
    write_bar(w, 20, 1, 3);
    write_bar(w, 8, 4, 0);
    fy_bus_read(w->f.bus, FY_SPACE_MMIO, bar(w) + 4, 4);
    write_bar(w, 0, 4, 0);
    features &= (uint32_t)fy_bus_read(w->f.bus, FY_SPACE_MMIO, bar(w) + 4, 4);
    write_bar(w, 12, 4, op & 2 ? features : features & (op >> 2 | 0x20000));
    write_bar(w, 8, 4, 1);
    write_bar(w, 12, 4, op & 1 ? 5 : 1);
    write_bar(w, 20, 1, 11);
    for (unsigned q = 0; q < QUEUES; q++) {
        uint64_t base = RINGS + (uint64_t)q * RING_ROOM;
        write_bar(w, 22, 2, q);
        write_bar(w, 24, 2, SIZE);
        write_bar(w, 26, 2, q);
        write_bar(w, 32, 8, base);
        write_bar(w, 40, 8, base + 0x1000);
        write_bar(w, 48, 8, base + 0x2000);
        write_bar(w, 28, 2, 1);
    }
    write_bar(w, 20, 1, 15);
}

/* Of a split ring: descriptors from 0 on, n of them, to queue q; lens[i] bytes from DATA on; the last `in`
 * are written. */
static void request(struct world *w, unsigned q, const uint32_t *lens, unsigned n, unsigned in)
{
    uint64_t base = RINGS + (uint64_t)q * RING_ROOM, at = DATA + q * 0x20000ull;
    for (unsigned i = 0; i < n; i++) {
        bool last = i + 1 == n;
        poke(w, base + 16 * i, at, 8);
        poke(w, base + 16 * i + 8,
             lens[i] | (last ? 0ull : 1ull) << 32 | (i >= n - in ? 2ull : 0) << 32 | (i + 1ull) << 48, 8);
        at += lens[i];
    }
    const uint8_t *avail = fy_gmem_at(w->gmem, base + 0x1000, 4);
    uint16_t idx = fy_get16(avail + 2);
    poke(w, base + 0x1004 + 2 * (idx % SIZE), 0, 2);
    poke(w, base + 0x1002, idx + 1u, 2);
    write_bar(w, 0x3000 + 4 * q, 2, q);
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
        poke(w, DATA + 0x20000, v & 0xff, 2);
        poke(w, DATA + 0x20002, (uint64_t)(v >> 8) * 0x010001010101ull, 8);
        request(w, 1, lens, 2, 0);
        break;
    }
    case 3:
    case 4: { /* a command */
        const uint32_t lens[3] = {2, v >> 8 & 0x3ff, 1};
        poke(w, DATA + 0x40000, (v & 7) | (v >> 3 & 7) << 8, 2);
        poke(w, DATA + 0x40002, v >> 10, 8);
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
        send(w->wire, buf, v >> 12 & 0xfff, MSG_DONTWAIT | MSG_NOSIGNAL);
    }
    }
}

static void look_at_wire(struct world *w)
{
    static uint8_t buf[FY_NET_HDR_BYTES + FY_NET_FRAME_MAX + 1];
    ssize_t n;
    while ((n = recv(w->wire, buf, sizeof buf, MSG_DONTWAIT)) > 0) {
        struct fy_net_hdr h;
        MUST(n >= (ssize_t)(FY_NET_HDR_BYTES + FY_NET_FRAME_MIN) && n < (ssize_t)sizeof buf);
        memcpy(&h, buf, sizeof h);
        MUST(fy_net_hdr_ok(&h, (uint32_t)n - FY_NET_HDR_BYTES) && h.num_buffers == 0);
    }
}

static void operate(struct world *w, uint32_t op)
{
    unsigned size = 1u << (op >> 3 & 3);
    struct fy_err e;
    switch (op & 7) {
    case 0:
        write_bar(w, op >> 5 & 0x7f, size, op >> 16);
        break;
    case 1:
        fy_bus_read(w->f.bus, FY_SPACE_MMIO, bar(w) + (op >> 5 & 0x3fff), size);
        break;
    case 2:
        poke(w, RINGS + (op >> 5 & 0x3ff) * 16 + (op >> 15 & 1) * 8, op >> 16, size);
        break;
    case 3:
        set_up(w, op >> 8);
        break;
    case 4:
        if (op & 0x100)
            set_paused(w, !w->paused);
        else if ((op >> 24) == 0xa5)
            w->f.dev.ops->reset(w->f.dev.dev);
        else if ((op & 0x200) && w->paused)
            fy_gate_hold(w->gate);
        else if (op & 0x400)
            fy_gate_release(w->gate, op >> 16 & 15, &e);
        else if (op & 0x800)
            fy_gate_open(w->gate);
        else if (op & 0x1000)
            fy_virtio_net_set_rate(&w->f.dev, (uint64_t)(op >> 16) << 10);
        else
            look_at_wire(w);
        break;
    default:
        driver(w, op);
    }
}

static void same_after_load(struct world *w)
{
    struct fy_device *d = &w->f.dev;
    struct fy_err e = {0};
    uint8_t *a = NULL, *b = NULL;
    size_t alen, blen;
    MUST(d->ops->save(d->dev, &a, &alen, &e) == 0);
    if (d->ops->load(d->dev, a, alen, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        MUST(!"the card refuses its own state");
    }
    MUST(d->ops->save(d->dev, &b, &blen, &e) == 0);
    MUST(alen == blen && memcmp(a, b, alen) == 0);
    free(a);
    free(b);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct world w;
    struct fy_err e = {0};
    world_init(&w);
    fy_pci_assign(w.pci);
    if (size >= 2) {
        size_t len = data[0] | (size_t)data[1] << 8;
        len = len < size - 2 ? len : size - 2;
        if (w.f.dev.ops->load(w.f.dev.dev, data + 2, len, &e))
            MUST(e.code == FY_ECORRUPT && e.text[0]);
        data += 2 + len;
        size -= 2 + len;
    }
    set_paused(&w, false);
    for (unsigned i = 0; size >= 4 && i < OPS; i++, data += 4, size -= 4) {
        uint32_t op;
        memcpy(&op, data, 4);
        operate(&w, op);
    }
    fy_gate_open(w.gate);
    set_paused(&w, true);
    look_at_wire(&w);
    same_after_load(&w);
    w.f.dev.ops->free(w.f.dev.dev);
    w.pci_dev.ops->free(w.pci_dev.dev);
    fy_gmem_free(w.gmem);
    fy_gate_free(w.gate);
    fy_bus_free(w.f.bus);
    close(w.wire);
    return 0;
}
