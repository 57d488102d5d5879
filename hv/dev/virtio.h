// SPDX-License-Identifier: Apache-2.0
/* A virtio 1.2 device on PCI, modern only (Virtual I/O Device Version 1.2, section 4.1). A device type fills
 * struct fy_virtio_type; everything between the guest and its calls is here: the transport's registers,
 * feature negotiation, MSI-X and INTx, kicks, state.
 *
 * Threads. Each device has one lock. Every call of the type's table is made with it held: from the device's
 * I/O thread (kick, and the type's own watches, which take the lock themselves by fy_virtio_enter), from a
 * vCPU (config_*, activate, reset) or from the main thread (drain, resume, save, load, free). While the
 * machine is paused, or the device is not active, fy_virtio_enter gives false: what comes then must wait for
 * resume or be dropped.
 *
 * DMA goes only through the segments of popped chains, which are RAM. */
#ifndef FERRY_DEV_VIRTIO_H
#define FERRY_DEV_VIRTIO_H

#include "hv/dev/iothread.h"
#include "hv/dev/pci.h"
#include "hv/dev/virtqueue.h"

/* Device ids (section 5). */
enum {
    FY_VIRTIO_NET = 1,
    FY_VIRTIO_BLOCK = 2,
    FY_VIRTIO_CONSOLE = 3,
    FY_VIRTIO_RNG = 4,
    FY_VIRTIO_BALLOON = 5,
    FY_VIRTIO_VSOCK = 19,
};

/* Features of the transport and rings, offered with every device. */
#define FY_VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define FY_VIRTIO_F_EVENT_IDX (1ull << 29)
#define FY_VIRTIO_F_VERSION_1 (1ull << 32)
#define FY_VIRTIO_F_RING_PACKED (1ull << 34)
#define FY_VIRTIO_RING_FEATURES                                                                              \
    (FY_VIRTIO_F_INDIRECT_DESC | FY_VIRTIO_F_EVENT_IDX | FY_VIRTIO_F_VERSION_1 | FY_VIRTIO_F_RING_PACKED)

#define FY_VIRTIO_QUEUES_MAX 64

struct fy_virtio_type {
    const char *type;   /* of the description: "virtio-blk" */
    uint32_t version;   /* of its state message */
    uint16_t device_id; /* FY_VIRTIO_… */
    uint32_t pci_class; /* 24 bits */

    /* Device configuration, `len` bytes at `offset`, inside what fy_virtio_config says. config_write: NULL
     * where nothing can be written. */
    void (*config_read)(void *dev, uint32_t offset, uint8_t *buf, uint32_t len);
    void (*config_write)(void *dev, uint32_t offset, const uint8_t *buf, uint32_t len);
    /* The driver is ready (DRIVER_OK): enabled queues are started; `features` are the negotiated ones. Also
     * after a load of an active device. */
    void (*activate)(void *dev, uint64_t features);
    /* The driver has kicked queue q, or it is worth looking (after resume). Pop, work, put,
     * fy_virtio_notify. Runs until the queue is empty or a bound of the type's own is reached. */
    void (*kick)(void *dev, unsigned q);
    /* Finish what is in flight: on return every popped chain has been put back, and no guest memory, disk or
     * network is touched until the next call. Optional where nothing stays in flight. */
    void (*drain)(void *dev);
    /* Back to power-on; drained before. The queues are stopped afterwards. */
    void (*reset)(void *dev);
    /* The machine runs again after a pause or a load, and the device is active. Kicks follow for every
     * started queue. Optional. */
    void (*resume)(void *dev);
    /* The type's own part of the state (a message of proto/state.proto). Optional: no part. save gives a
     * fresh malloc'd buffer. load: parse into scratch, validate, then commit; on error nothing has changed.
     * It is committed before the queues are; activate follows where the device is active. */
    int (*save)(void *dev, uint8_t **buf, size_t *len, struct fy_err *e);
    int (*load)(void *dev, const uint8_t *buf, size_t len, struct fy_err *e);
    void (*free)(void *dev);
};

struct fy_virtio_config {
    const char *id;        /* in the description: "disk0"; copied */
    unsigned slot;         /* PCI slot */
    uint64_t features;     /* of the type; the rings' are added */
    unsigned queues;       /* 1..FY_VIRTIO_QUEUES_MAX */
    uint16_t queue_size;   /* a power of two, at most FY_VQ_SIZE_MAX */
    uint32_t config_bytes; /* of the device configuration; at most 256 */
    struct fy_iothread *io;
};

struct fy_virtio;

/* Make the device and its PCI function. dev is owned from here on (type->free), also on failure. out: what
 * the machine keeps; its ops->free frees all. While the machine is built. */
int fy_virtio_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_virtio_type *type,
                  const struct fy_virtio_config *config, void *dev, struct fy_virtio **v,
                  struct fy_device *out, struct fy_err *e);
void *fy_virtio_dev(struct fy_virtio *v);

/* For the type, from outside its table's calls (its own watches and timers, a backend's thread): take the
 * device's lock. true: active and not paused, work may be done; false: not, but the lock is held all the
 * same. fy_virtio_leave in both cases. Any thread. */
bool fy_virtio_enter(struct fy_virtio *v);
void fy_virtio_leave(struct fy_virtio *v);

/* All below: the device's lock held. */
struct fy_vq *fy_virtio_queue(struct fy_virtio *v, unsigned q);
/* Negotiated features; 0 before FEATURES_OK. */
uint64_t fy_virtio_features(const struct fy_virtio *v);
/* Interrupt the driver for queue q if it wants to be. After the puts. */
void fy_virtio_notify(struct fy_virtio *v, unsigned q);
/* There is more to do in queue q than one turn allows: have kick called again soon. */
void fy_virtio_again(struct fy_virtio *v, unsigned q);
/* The device configuration has changed: generation and interrupt. */
void fy_virtio_config_changed(struct fy_virtio *v);
/* The driver has broken a rule that is no ring's: DEVICE_NEEDS_RESET, queues stop until the driver resets. A
 * FY_VQ_BROKEN is dealt with by fy_virtio_notify and after kick, without this. `why` goes to the log. */
void fy_virtio_break(struct fy_virtio *v, const char *why);
const struct fy_dev_host *fy_virtio_host(const struct fy_virtio *v);

#endif
