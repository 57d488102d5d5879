// SPDX-License-Identifier: Apache-2.0
/* A virtio device under the fuzzer: guest memory with rings, a PCI bus, a driver that may do anything. The
 * input of these targets is {u16 length, state message, operations of 4 bytes}: the state is loaded into a
 * paused device, then come the operations, and at the end the paused device must save a state that it loads
 * again unchanged. */
#ifndef FERRY_TESTS_FUZZ_VIRTIO_H
#define FERRY_TESTS_FUZZ_VIRTIO_H

#include "hv/dev/gate.h"
#include "hv/dev/pci.h"
#include "proto/wire.h"
#include "tests/fuzz/device.h"
#include "tests/unit/memory_fixture.h"

#define WORLD_MEMORY (2u << 20)
#define WORLD_RINGS 0x10000u
#define WORLD_RING_ROOM 0x4000u /* a queue's areas: at 0, 0x1000, 0x2000 */
#define WORLD_RING_SIZE 16u
#define WORLD_OPS 400

struct world {
    struct fuzz_device f; /* f.dev is the device */
    struct fy_gmem *gmem;
    struct fy_pci *pci;
    struct fy_device pci_dev;
    struct fy_gate *gate;
    unsigned slot;
    bool paused;
};

static void fz_msi(void *arg, uint64_t address, uint32_t data)
{
    (void)arg;
    (void)address;
    (void)data;
}

/* All but the device, which the target makes in w->f.dev at `slot`. */
static inline void world_init(struct world *w, unsigned slot)
{
    struct fy_err e = {0};
    memset(w, 0, sizeof *w);
    fuzz_device_init(&w->f);
    w->f.host.msi = fz_msi;
    w->gmem = fx_memory(WORLD_MEMORY, &e);
    w->gate = fy_gate_new(&e);
    MUST(w->gmem && w->gate);
    MUST(fy_pci_new(w->f.bus, &w->f.host, &w->pci_dev, &w->pci, &e) == 0);
    w->slot = slot;
    w->paused = true;
}

static inline void world_free(struct world *w)
{
    w->f.dev.ops->free(w->f.dev.dev);
    w->pci_dev.ops->free(w->pci_dev.dev);
    fy_gmem_free(w->gmem);
    fy_gate_free(w->gate);
    fy_bus_free(w->f.bus);
}

static inline void set_paused(struct world *w, bool paused)
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
static inline uint64_t bar(struct world *w)
{
    fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcf8, 4, 0x80000000u | w->slot << 11 | 0x10);
    return fy_bus_read(w->f.bus, FY_SPACE_PORT, 0xcfc, 4) & ~0xfull;
}

static inline void write_bar(struct world *w, uint64_t offset, unsigned size, uint64_t value)
{
    fy_bus_write(w->f.bus, FY_SPACE_MMIO, bar(w) + offset, size, value);
}

/* tests/fuzz/tsan.supp knows its name. */
static void poke(struct world *w, uint64_t at, uint64_t value, unsigned size)
{
    uint8_t *p = fy_gmem_at(w->gmem, at, size);
    uint8_t buf[8];
    fy_put64(buf, value);
    for (unsigned i = 0; p && i < size; i++)
        __atomic_store_n(p + i, buf[i], __ATOMIC_RELAXED);
}

/* Set `queues` queues up as a driver would, with the feature bits that the device has of low. */
static inline void set_up_queues(struct world *w, unsigned queues, uint32_t low, bool packed)
{
    write_bar(w, 20, 1, 0);
    write_bar(w, 20, 1, 3);
    write_bar(w, 0, 4, 0);
    low &= (uint32_t)fy_bus_read(w->f.bus, FY_SPACE_MMIO, bar(w) + 4, 4);
    write_bar(w, 8, 4, 0);
    write_bar(w, 12, 4, low);
    write_bar(w, 8, 4, 1);
    write_bar(w, 12, 4, packed ? 5 : 1);
    write_bar(w, 20, 1, 11);
    for (unsigned q = 0; q < queues; q++) {
        uint64_t base = WORLD_RINGS + (uint64_t)q * WORLD_RING_ROOM;
        write_bar(w, 22, 2, q);
        write_bar(w, 24, 2, WORLD_RING_SIZE);
        write_bar(w, 26, 2, q);
        write_bar(w, 32, 8, base);
        write_bar(w, 40, 8, base + 0x1000);
        write_bar(w, 48, 8, base + 0x2000);
        write_bar(w, 28, 2, 1);
    }
    write_bar(w, 20, 1, 15);
}

/* Of a split ring: descriptor i of n at its place, for `len` bytes at gpa; in: the device writes them. */
static inline void put_descriptor(struct world *w, unsigned q, unsigned i, unsigned n, uint64_t gpa,
                                  uint32_t len, bool in)
{
    uint64_t at = WORLD_RINGS + (uint64_t)q * WORLD_RING_ROOM + 16ull * i;
    bool more = i + 1 < n;
    poke(w, at, gpa, 8);
    poke(w, at + 8, len | (uint64_t)more << 32 | (in ? 2ull : 0) << 32 | (more ? i + 1ull : 0) << 48, 8);
}

/* The chain that begins with descriptor 0 becomes available, and queue q is kicked. */
static inline void make_available(struct world *w, unsigned q)
{
    uint64_t avail = WORLD_RINGS + (uint64_t)q * WORLD_RING_ROOM + 0x1000;
    uint16_t idx = fy_get16(fy_gmem_at(w->gmem, avail, 4) + 2);
    poke(w, avail + 4 + 2 * (idx % WORLD_RING_SIZE), 0, 2);
    poke(w, avail + 2, idx + 1u, 2);
    write_bar(w, 0x3000 + 4 * q, 2, q);
}

static inline void same_after_load(struct world *w)
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
        MUST(!"the device refuses its own state");
    }
    MUST(d->ops->save(d->dev, &b, &blen, &e) == 0);
    MUST(alen == blen && memcmp(a, b, alen) == 0);
    free(a);
    free(b);
}

/* Load the input's state and go through its operations; the device runs. */
static inline void world_run(struct world *w, const uint8_t *data, size_t size,
                             void (*operate)(struct world *w, uint32_t op))
{
    struct fy_err e = {0};
    fy_pci_assign(w->pci);
    if (size >= 2) {
        size_t len = data[0] | (size_t)data[1] << 8;
        len = len < size - 2 ? len : size - 2;
        if (w->f.dev.ops->load(w->f.dev.dev, data + 2, len, &e))
            MUST(e.code == FY_ECORRUPT && e.text[0]);
        data += 2 + len;
        size -= 2 + len;
    }
    set_paused(w, false);
    for (unsigned i = 0; size >= 4 && i < WORLD_OPS; i++, data += 4, size -= 4) {
        uint32_t op;
        memcpy(&op, data, 4);
        operate(w, op);
    }
}

#endif
