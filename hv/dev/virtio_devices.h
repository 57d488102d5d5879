// SPDX-License-Identifier: Apache-2.0
/* Constructors of the virtio devices, while the machine is built. slot: the PCI slot; io: the thread that
 * serves the device, which outlives it. Each fills *out, whose ops->free frees all. */
#ifndef FERRY_DEV_VIRTIO_DEVICES_H
#define FERRY_DEV_VIRTIO_DEVICES_H

#include "hv/dev/virtio.h"

int fy_virtio_rng_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                      struct fy_device *out, struct fy_err *e);

/* Its output goes by host->console_out. */
int fy_virtio_console_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                          struct fy_virtio **v, struct fy_device *out, struct fy_err *e);
/* Feed input; returns how much was taken (the rest: later, when host->console_room is called), and how much
 * would be. Any thread. */
size_t fy_virtio_console_input(struct fy_virtio *v, const uint8_t *buf, size_t len);
size_t fy_virtio_console_input_room(struct fy_virtio *v);
/* There may be room for output again (host->console_out_room). Any thread. */
void fy_virtio_console_output_room(struct fy_virtio *v);
/* A driver has it, since the last reset. Any thread, takes no lock. */
bool fy_virtio_console_ready(struct fy_virtio *v);

int fy_virtio_balloon_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                          struct fy_virtio **v, struct fy_device *out, struct fy_err *e);
/* How much of its memory the guest is asked to give up, in bytes (whole pages, at most all). Any thread. */
void fy_balloon_set_target(struct fy_virtio *balloon, uint64_t bytes);

/* Statistics by their tag (virtio 1.2, 5.5.6.3): bytes, faults, bytes. */
enum {
    FY_BALLOON_SWAP_IN,
    FY_BALLOON_SWAP_OUT,
    FY_BALLOON_MAJOR_FAULTS,
    FY_BALLOON_MINOR_FAULTS,
    FY_BALLOON_FREE,
    FY_BALLOON_TOTAL,
    FY_BALLOON_AVAILABLE,
    FY_BALLOON_CACHES,
    FY_BALLOON_HUGE_ALLOC,
    FY_BALLOON_HUGE_FAIL,
    FY_BALLOON_STATS
};
struct fy_balloon_status {
    uint64_t target, actual; /* bytes asked for, bytes given up as the guest says */
    uint64_t reported;       /* bytes of free pages given back, since this process has the guest */
    bool stats_known;        /* the guest's driver has sent statistics */
    uint64_t stats[FY_BALLOON_STATS];
};
/* What is known now; has the guest send newer statistics for the next call. Any thread. */
void fy_balloon_status(struct fy_virtio *balloon, struct fy_balloon_status *s);

#endif
