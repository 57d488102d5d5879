// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/virtio.h"

#include "tests/unit/memory_fixture.h"

static void fz_msi(void *arg, uint64_t address, uint32_t data)
{
    (void)arg;
    (void)address;
    (void)data;
}

/* One memory for all inputs: its pages go, which is much cheaper than another memfd. */
static struct fy_gmem *fresh_memory(void)
{
    static struct fy_gmem *memory;
    struct fy_err e = {0};
    if (!memory)
        memory = fx_memory(WORLD_MEMORY, &e);
    MUST(memory);
    MUST(madvise(fy_gmem_at(memory, 0, WORLD_MEMORY), WORLD_MEMORY, MADV_REMOVE) == 0);
    return memory;
}

void world_init(struct world *w, const struct world_ops *ops)
{
    struct fy_err e = {0};
    memset(w, 0, sizeof *w);
    fuzz_device_init(&w->f);
    w->f.kind = ops->kind;
    w->f.host.msi = fz_msi;
    w->gmem = fresh_memory();
    w->gate = fy_gate_new(&e);
    MUST(w->gate);
    MUST(fy_pci_new(w->f.bus, &w->f.host, &w->pci_dev, &w->pci, &e) == 0);
    w->ops = ops;
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

void world_settle(struct world *w)
{
    /* What the gate holds would be in flight still. */
    set_paused(w, false);
    fy_gate_open(w->gate);
    set_paused(w, true);
    fy_gate_discard(w->gate);
}

void world_free(struct world *w)
{
    fuzz_same_after_load(&w->f);
    w->f.dev.ops->free(w->f.dev.dev);
    w->pci_dev.ops->free(w->pci_dev.dev);
    fy_gate_free(w->gate);
    fy_bus_free(w->f.bus);
}

/* BAR 0 is wherever the state or the operations have put it. */
static uint64_t bar(struct world *w)
{
    fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcf8, 4, 0x80000000u | w->ops->slot << 11 | 0x10);
    return fy_bus_read(w->f.bus, FY_SPACE_PORT, 0xcfc, 4) & ~0xfull;
}

static void put(struct world *w, uint64_t at, unsigned size, uint64_t value)
{
    fy_bus_write(w->f.bus, FY_SPACE_MMIO, at, size, value);
}

void world_write_bar(struct world *w, uint64_t offset, unsigned size, uint64_t value)
{
    put(w, bar(w) + offset, size, value);
}

/* tests/fuzz/tsan.supp knows its name. */
void world_poke(struct world *w, uint64_t at, uint64_t value, unsigned size)
{
    uint8_t *p = fy_gmem_at(w->gmem, at, size);
    uint8_t buf[8];
    fy_put64(buf, value);
    for (unsigned i = 0; p && i < size; i++)
        __atomic_store_n(p + i, buf[i], __ATOMIC_RELAXED);
}

void world_queues(struct world *w, unsigned queues, uint32_t low, bool packed)
{
    const uint64_t at = bar(w);
    put(w, at + 20, 1, 0);
    put(w, at + 20, 1, 3);
    put(w, at + 0, 4, 0);
    low &= (uint32_t)fy_bus_read(w->f.bus, FY_SPACE_MMIO, at + 4, 4);
    put(w, at + 8, 4, 0);
    put(w, at + 12, 4, low);
    put(w, at + 8, 4, 1);
    put(w, at + 12, 4, packed ? 5 : 1);
    put(w, at + 20, 1, 11);
    for (unsigned q = 0; q < queues; q++) {
        uint64_t base = WORLD_RINGS + (uint64_t)q * WORLD_RING_ROOM;
        put(w, at + 22, 2, q);
        put(w, at + 24, 2, WORLD_RING_SIZE);
        put(w, at + 26, 2, q);
        put(w, at + 32, 8, base);
        put(w, at + 40, 8, base + 0x1000);
        put(w, at + 48, 8, base + 0x2000);
        put(w, at + 28, 2, 1);
    }
    put(w, at + 20, 1, 15);
}

void world_descriptor(struct world *w, unsigned q, unsigned i, unsigned n, uint64_t gpa, uint32_t len,
                      bool in)
{
    uint64_t at = WORLD_RINGS + (uint64_t)q * WORLD_RING_ROOM + 16ull * i;
    bool more = i + 1 < n;
    world_poke(w, at, gpa, 8);
    world_poke(w, at + 8, len | (uint64_t)more << 32 | (in ? 2ull : 0) << 32 | (more ? i + 1ull : 0) << 48,
               8);
}

void world_available(struct world *w, unsigned q)
{
    uint64_t avail = WORLD_RINGS + (uint64_t)q * WORLD_RING_ROOM + 0x1000;
    uint16_t idx = fy_get16(fy_gmem_at(w->gmem, avail, 4) + 2);
    world_poke(w, avail + 4 + 2 * (idx % WORLD_RING_SIZE), 0, 2);
    world_poke(w, avail + 2, idx + 1u, 2);
    world_write_bar(w, 0x3000 + 4 * q, 2, q);
}

static void control(struct world *w, uint32_t op)
{
    struct fy_err e;
    if (op & 0x100)
        set_paused(w, !w->paused);
    else if ((op >> 24) == 0xa5)
        w->f.dev.ops->reset(w->f.dev.dev);
    else if (op & 0x200 && w->ops->control)
        w->ops->control(w, op);
    else if (op & 0x400 && w->paused)
        fy_gate_hold(w->gate);
    else if (op & 0x800)
        fy_gate_release(w->gate, op >> 16 & 15, &e);
    else
        fy_gate_open(w->gate);
}

static void operate(struct world *w, uint32_t op)
{
    unsigned size = 1u << (op >> 3 & 3);
    switch (op & 7) {
    case 0:
        world_write_bar(w, op >> 5 & 0x7f, size, op >> 16);
        break;
    case 1:
        fy_bus_read(w->f.bus, FY_SPACE_MMIO, bar(w) + (op >> 5 & 0x3fff), size);
        break;
    case 2: /* somewhere in the rings */
        world_poke(w, WORLD_RINGS + (op >> 5 & 0x7ff) * 16 + (op >> 15 & 1) * 8, op >> 16, size);
        break;
    case 3:
        w->ops->set_up(w, op >> 8);
        break;
    case 4:
        fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcf8, 4, 0x80000000u | w->ops->slot << 11 | (op >> 5 & 0xfc));
        fy_bus_write(w->f.bus, FY_SPACE_PORT, 0xcfc, 4, (op >> 16) * 0x10001u);
        break;
    case 5:
        control(w, op);
        break;
    default:
        w->ops->request(w, op);
    }
}

void world_run(struct world *w, const uint8_t *data, size_t size)
{
    uint64_t seed = 0x9e3779b97f4a7c15ull ^ size;
    unsigned i;
    fy_pci_assign(w->pci);
    fuzz_device_load(&w->f, &data, &size);
    set_paused(w, false);
    const unsigned most = fuzz_operations_wanted() < WORLD_OPS ? fuzz_operations_wanted() : WORLD_OPS;
    for (i = 0; i < WORLD_OPS_MIN || (size >= 4 && i < most); i++) {
        operate(w, fuzz_next_op(&data, &size, &seed));
        if (fuzz_iothreads_go_on)
            fuzz_iothreads_go_on();
    }
    fuzz_operations(i);
}
