// SPDX-License-Identifier: Apache-2.0
/* Entropy device (virtio 1.2, 5.4): fills the driver's buffers from the host's getrandom. */
#include <stdlib.h>
#include <sys/random.h>

#include "hv/base/checked.h"
#include "hv/dev/virtio_devices.h"

#define CLASS_RNG 0x100000u
#define BUFFER_MAX 16384u /* bytes of one request that are filled; the driver asks again for more */
#define REQUESTS_A_TURN 8u

struct rng {
    struct fy_virtio *v;
};

static uint32_t fill(const struct fy_vq_chain *c)
{
    uint8_t bytes[256];
    uint64_t want = FY_MIN(c->in_bytes, (uint64_t)BUFFER_MAX), done = 0;
    while (done < want) {
        ssize_t got = getrandom(bytes, FY_MIN(sizeof bytes, want - done), 0);
        if (got <= 0)
            break;
        done += fy_vq_store(c, done, bytes, (uint64_t)got);
    }
    return (uint32_t)done;
}

static void rng_kick(void *dev, unsigned n)
{
    struct rng *r = dev;
    struct fy_vq *q = fy_virtio_queue(r->v, n);
    struct fy_vq_chain c;
    unsigned turn = 0;
    while (turn < REQUESTS_A_TURN) {
        int got = fy_vq_pop(q, &c);
        if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (got != FY_VQ_GOT)
            break;
        fy_vq_put(q, &c, fill(&c));
        turn++;
    }
    if (turn == REQUESTS_A_TURN)
        fy_virtio_again(r->v, n);
    fy_virtio_notify(r->v, n);
}

static void rng_nothing(void *dev)
{
    (void)dev;
}

static void rng_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static void rng_config_read(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    (void)dev;
    (void)offset;
    (void)buf;
    (void)len;
}

static void rng_free(void *dev)
{
    free(dev);
}

static const struct fy_virtio_type rng_type = {
    .type = "virtio-rng",
    .version = 1,
    .device_id = FY_VIRTIO_RNG,
    .pci_class = CLASS_RNG,
    .config_read = rng_config_read,
    .activate = rng_activate,
    .kick = rng_kick,
    .reset = rng_nothing,
    .free = rng_free,
};

int fy_virtio_rng_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                      struct fy_device *out, struct fy_err *e)
{
    struct rng *r = calloc(1, sizeof *r);
    if (!r)
        return fy_fail(e, FY_ERESOURCE, "no memory for the entropy device");
    struct fy_virtio_config c = {.id = "rng", .slot = slot, .queues = 1, .queue_size = 64, .io = io};
    return fy_virtio_new(pci, gmem, &rng_type, &c, r, &r->v, out, e);
}
