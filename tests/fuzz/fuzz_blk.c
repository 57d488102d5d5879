// SPDX-License-Identifier: Apache-2.0
/* The block device, and the virtio core below it, under the fuzzer: the input is {u16 length, state message,
 * operations of 4 bytes}. The state is loaded into a paused device; then come register and configuration
 * accesses, bytes of guest memory (where the rings are too), requests, kicks, pauses and resets; then it must
 * save a state that it loads again unchanged. Nothing may be touched outside of the disk and of guest memory.
 */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/dev/virtio_blk.h"
#include "proto/wire.h"
#include "tests/fuzz/device.h"
#include "tests/unit/memory_fixture.h"

#define SLOT 8
#define MEMORY (2u << 20)
#define RINGS 0x10000u
#define BYTES 65536u
#define OPS 400

struct store {
    struct fy_block b;
    struct fy_block_req *first;
    unsigned in_flight;
    uint8_t bytes[BYTES];
};

static void store_submit(struct fy_block *b, struct fy_block_req *r)
{
    struct store *s = (struct store *)b;
    MUST(r->offset <= BYTES && r->bytes <= BYTES - r->offset && s->in_flight < FY_BLOCK_DEPTH);
    r->next = s->first;
    s->first = r;
    s->in_flight++;
    eventfd_write(b->event_fd, 1);
}

static void store_kick(struct fy_block *b)
{
    (void)b;
}

static unsigned store_reap(struct fy_block *b, bool wait)
{
    struct store *s = (struct store *)b;
    struct fy_block_req *r;
    (void)wait;
    while ((r = s->first)) {
        uint64_t at = r->offset;
        s->first = r->next;
        s->in_flight--;
        for (unsigned i = 0; i < r->iov_count; at += r->iov[i++].iov_len) {
            MUST(at + r->iov[i].iov_len <= r->offset + r->bytes);
            if (r->op == FY_BLOCK_READ)
                memcpy(r->iov[i].iov_base, s->bytes + at, r->iov[i].iov_len);
            else if (r->op == FY_BLOCK_WRITE)
                memcpy(s->bytes + at, r->iov[i].iov_base, r->iov[i].iov_len);
        }
        r->done(r, r->offset == 512 ? EIO : 0);
    }
    return s->in_flight;
}

static void store_free(struct fy_block *b)
{
    MUST(((struct store *)b)->in_flight == 0);
    close(b->event_fd);
    free(b);
}

struct world {
    struct fuzz_device f; /* f.dev is the disk */
    struct fy_gmem *gmem;
    struct fy_pci *pci;
    struct fy_device pci_dev;
    struct fy_gate *gate;
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
    static const struct fy_block_ops ops = {
        .submit = store_submit, .kick = store_kick, .reap = store_reap, .free = store_free};
    struct fy_err e = {0};
    memset(w, 0, sizeof *w);
    fuzz_device_init(&w->f);
    w->f.host.msi = fz_msi;
    w->gmem = fx_memory(MEMORY, &e);
    w->gate = fy_gate_new(&e);
    MUST(w->gmem && w->gate);
    MUST(fy_pci_new(w->f.bus, &w->f.host, &w->pci_dev, &w->pci, &e) == 0);
    struct fy_blk_config c = {
        .id = "disk0", .serial = "fuzz", .slot = SLOT, .queues = 2, .bytes = BYTES, .gate = w->gate};
    MUST(fy_virtio_blk_new(w->pci, w->gmem, &c, &w->f.dev, &e) == 0);
    struct store *s = calloc(1, sizeof *s);
    MUST(s);
    s->b = (struct fy_block){.ops = &ops, .bytes = BYTES, .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    MUST(fy_virtio_blk_attach(&w->f.dev, &s->b, &e) == 0);
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

/* Set queue 0 up as a driver would. */
static void set_up(struct world *w, uint32_t op)
{
    uint64_t b = bar(w);
    bool packed = op & 1;
    const struct {
        unsigned offset, size;
        uint64_t value;
    } writes[] = {{20, 1, 0},
                  {20, 1, 3},
                  {8, 4, 0},
                  {12, 4, op & 2 ? 0x30006244 : 0x30000000},
                  {8, 4, 1},
                  {12, 4, packed ? 5 : 1},
                  {20, 1, 11},
                  {22, 2, 0},
                  {24, 2, 16},
                  {26, 2, 0},
                  {32, 8, RINGS},
                  {40, 8, RINGS + 0x1000},
                  {48, 8, RINGS + 0x2000},
                  {28, 2, 1},
                  {20, 1, 15}};
    for (size_t i = 0; i < FY_ARRAY_LEN(writes); i++)
        fy_bus_write(w->f.bus, FY_SPACE_MMIO, b + writes[i].offset, writes[i].size, writes[i].value);
}

/* A request of three descriptors at 0, as of a split ring. */
static void request(struct world *w, uint32_t op)
{
    uint64_t header = 0x20000;
    bool in = op & 1;
    poke(w, header, op >> 8 & 15, 4);
    poke(w, header + 8, op >> 12 & 255, 8);
    const uint64_t desc[3][2] = {{header, 16 | 1ull << 32 | 1ull << 48},
                                 {header + 512, (op >> 20 & 0xfff) | (in ? 3ull : 1ull) << 32 | 2ull << 48},
                                 {header + 64, 1 | 2ull << 32}};
    for (unsigned i = 0; i < 3; i++) {
        poke(w, RINGS + 16 * i, desc[i][0], 8);
        poke(w, RINGS + 16 * i + 8, desc[i][1], 8);
    }
    uint8_t *avail = fy_gmem_at(w->gmem, RINGS + 0x1000, 4);
    uint16_t idx = fy_get16(avail + 2);
    poke(w, RINGS + 0x1004 + 2 * (idx % 16), 0, 2);
    poke(w, RINGS + 0x1002, idx + 1u, 2);
    fy_bus_write(w->f.bus, FY_SPACE_MMIO, bar(w) + 0x3000, 2, 0);
}

static void operate(struct world *w, uint32_t op)
{
    unsigned size = 1u << (op >> 3 & 3);
    struct fy_err e;
    switch (op & 7) {
    case 0:
        fy_bus_write(w->f.bus, FY_SPACE_MMIO, bar(w) + (op >> 5 & 0x7f), size, op >> 16);
        break;
    case 1:
        fy_bus_read(w->f.bus, FY_SPACE_MMIO, bar(w) + (op >> 5 & 0x3fff), size);
        break;
    case 2:
        poke(w, RINGS + (op >> 5 & 0x3ff) * 16 % 0x3000 + (op >> 15 & 1) * 8, op >> 16, size);
        break;
    case 3:
        set_up(w, op >> 8);
        break;
    case 4:
        fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcf8, 4, 0x80000000u | SLOT << 11 | (op >> 5 & 0xfc));
        fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcfc, 4, (op >> 16) * 0x10001u);
        break;
    case 5:
        if (op & 0x100)
            set_paused(w, !w->paused);
        else if ((op >> 24) == 0xa5)
            w->f.dev.ops->reset(w->f.dev.dev);
        else if (op & 0x200)
            fy_gate_hold(w->gate);
        else if (op & 0x400)
            fy_gate_release(w->gate, op >> 16 & 15, &e);
        else
            fy_gate_open(w->gate);
        break;
    default:
        request(w, op);
    }
}

static void same_after_load(struct world *w)
{
    struct fy_device *d = &w->f.dev;
    struct fy_err e = {0};
    uint8_t *a = NULL, *b = NULL;
    size_t alen, blen;
    if (d->ops->save(d->dev, &a, &alen, &e) < 0)
        fprintf(stderr, "%s\n", e.text);
    MUST(a);
    if (d->ops->load(d->dev, a, alen, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        MUST(!"the disk refuses its own state");
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
    /* What the gate holds would be in flight still. */
    set_paused(&w, false);
    fy_gate_open(w.gate);
    set_paused(&w, true);
    fy_gate_discard(w.gate);
    same_after_load(&w);
    w.f.dev.ops->free(w.f.dev.dev);
    w.pci_dev.ops->free(w.pci_dev.dev);
    fy_gmem_free(w.gmem);
    fy_gate_free(w.gate);
    fy_bus_free(w.f.bus);
    return 0;
}
