// SPDX-License-Identifier: Apache-2.0
/* Network card (virtio 1.2, 5.1). What it has beyond the transport's calls: its link, its limit, its
 * counters. */
#ifndef FERRY_DEV_VIRTIO_NET_H
#define FERRY_DEV_VIRTIO_NET_H

#include "hv/dev/gate.h"
#include "hv/dev/net_backend.h"
#include "hv/dev/virtio.h"

struct fy_virtio_net_config {
    const char *id; /* "net0" */
    unsigned slot;
    uint8_t mac[6];
    unsigned pairs;                 /* 1..FY_NET_PAIRS_MAX */
    uint16_t mtu;                   /* 0: not said */
    uint64_t rate;                  /* bytes/s each way; 0: no limit */
    struct fy_net_backend *backend; /* owned by the card from the call on, also on failure */
    struct fy_gate *gate;           /* what is sent passes it; the caller's; NULL: open */
    /* Optional: the backend has gone. The card's thread, its lock held. */
    void (*link_lost)(void *arg);
    void *arg;
};

/* Make the card with a thread of its own. */
int fy_virtio_net_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_virtio_net_config *c,
                      struct fy_device *out, struct fy_err *e);

struct fy_net_counters {
    uint64_t frames, bytes, dropped;
};
struct fy_net_status {
    bool link;
    uint64_t rate;
    struct fy_net_counters rx, tx;
};

/* A frame on its way between hosts: card u32, length u32, struct fy_net_hdr, the frame. */
#define FY_LATE_HEAD (8 + FY_NET_HDR_BYTES)
/* Frames that have come to a card whose guest has left, into buf; returns the bytes used. *more: there are
 * others. The machine is latched: it will not run again. The main thread. */
size_t fy_virtio_net_collect(struct fy_device *d, unsigned card, uint8_t *buf, size_t room, bool *more);
/* Give the driver a frame (a whole record, from another host: nothing in it is believed) before what comes by
 * the card's own way. As on a wire, one too many is lost. FY_ECORRUPT. The main thread. */
int fy_virtio_net_late(struct fy_device *d, const uint8_t *record, size_t len, struct fy_err *e);

/* All three: a device of fy_virtio_net_new; the main thread. */
void fy_virtio_net_status(struct fy_device *d, struct fy_net_status *s);
/* Give a card whose backend has gone another descriptor (taken over on success): its link comes up. */
int fy_virtio_net_attach(struct fy_device *d, int fd, struct fy_err *e);
void fy_virtio_net_set_rate(struct fy_device *d, uint64_t rate);

#endif
