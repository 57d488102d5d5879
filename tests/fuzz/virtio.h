// SPDX-License-Identifier: Apache-2.0
/* A virtio device under the fuzzer: guest memory with rings, a PCI bus, a driver that may do anything. The
 * input of these targets is {u16 length, state message, operations of 4 bytes}: the state is loaded into a
 * paused device, then come the operations (at least WORLD_OPS_MIN; derived ones where the input has fewer),
 * and at the end the paused device must save a state that it loads again unchanged. */
#ifndef FERRY_TESTS_FUZZ_VIRTIO_H
#define FERRY_TESTS_FUZZ_VIRTIO_H

#include "hv/dev/gate.h"
#include "hv/dev/pci.h"
#include "proto/wire.h"
#include "tests/fuzz/device.h"

#define WORLD_MEMORY (2u << 20)
#define WORLD_RINGS 0x10000u
#define WORLD_RING_ROOM 0x4000u /* a queue's areas: at 0, 0x1000, 0x2000 */
#define WORLD_RING_SIZE 16u
#define WORLD_OPS 400
#define WORLD_OPS_MIN 64

struct world;

/* The target's part of the operations. */
struct world_ops {
    unsigned kind;                                 /* of fuzz_loads */
    unsigned slot;                                 /* on the bus */
    void (*set_up)(struct world *w, uint32_t op);  /* queues, as a driver would: world_queues */
    void (*control)(struct world *w, uint32_t op); /* what the host does to this device */
    void (*request)(struct world *w, uint32_t op);
};

struct world {
    struct fuzz_device f; /* f.dev is the device */
    struct fy_gmem *gmem;
    struct fy_pci *pci;
    struct fy_device pci_dev;
    struct fy_gate *gate;
    const struct world_ops *ops;
    bool paused;
};

/* All but the device, which the target makes in w->f.dev, paused. */
void world_init(struct world *w, const struct world_ops *ops);
/* Load the input's state and go through its operations. */
void world_run(struct world *w, const uint8_t *data, size_t size);
/* Have what is in flight end, pause; then the device's state and its end, and the world's. */
void world_settle(struct world *w);
void world_free(struct world *w);

/* Have the I/O threads do what there is to do; only in builds with the fuzzer (iothread.c). */
void fuzz_iothreads_go_on(void) __attribute__((weak));

/* For the target's operations. */
void world_write_bar(struct world *w, uint64_t offset, unsigned size, uint64_t value);
void world_poke(struct world *w, uint64_t at, uint64_t value, unsigned size);
/* Set `queues` queues up as a driver would, with the feature bits that the device has of low. */
void world_queues(struct world *w, unsigned queues, uint32_t low, bool packed);
/* Of a split ring: descriptor i of n at its place, for `len` bytes at gpa; in: the device writes them. */
void world_descriptor(struct world *w, unsigned q, unsigned i, unsigned n, uint64_t gpa, uint32_t len,
                      bool in);
/* The chain that begins with descriptor 0 becomes available, and queue q is kicked. */
void world_available(struct world *w, unsigned q);

#endif
