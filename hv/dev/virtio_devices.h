// SPDX-License-Identifier: Apache-2.0
/* Constructors of the virtio devices, while the machine is built. slot: the PCI slot; io: the thread that
 * serves the device, which outlives it. Each fills *out, whose ops->free frees all. */
#ifndef FERRY_DEV_VIRTIO_DEVICES_H
#define FERRY_DEV_VIRTIO_DEVICES_H

#include "hv/dev/virtio.h"

int fy_virtio_rng_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                      struct fy_device *out, struct fy_err *e);

#endif
