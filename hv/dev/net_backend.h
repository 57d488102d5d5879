// SPDX-License-Identifier: Apache-2.0
/* The host's side of a network card, as the card sees it: hv/backend has the kinds. All calls come with the
 * card's lock held, one at a time, and none blocks. */
#ifndef FERRY_DEV_NET_BACKEND_H
#define FERRY_DEV_NET_BACKEND_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/uio.h>

#include "hv/base/err.h"

#define FY_NET_PAIRS_MAX 8
#define FY_NET_FRAME_MIN 14u    /* an Ethernet header */
#define FY_NET_FRAME_MAX 65553u /* an Ethernet header, a VLAN tag, 64 KiB - 1 */
#define FY_NET_HDR_BYTES 12u

/* What precedes a frame (virtio 1.2, 5.1.6; little-endian), in a queue and at a backend alike. */
struct fy_net_hdr {
    uint8_t flags;
    uint8_t gso_type;
    uint16_t hdr_len;
    uint16_t gso_size;
    uint16_t csum_start;
    uint16_t csum_offset;
    uint16_t num_buffers;
};
#define FY_NET_NEEDS_CSUM 1u
#define FY_NET_DATA_VALID 2u
#define FY_NET_GSO_NONE 0u
#define FY_NET_GSO_TCPV4 1u
#define FY_NET_GSO_TCPV6 4u
#define FY_NET_GSO_ECN 0x80u

/* Finish the checksum that a header leaves to do, and clear its flag. data: the frame. false: what the header
 * says does not lie in the frame. Pure. */
bool fy_net_finish_csum(struct fy_net_hdr *h, uint8_t *data, uint32_t len);
/* Does the header fit a frame of `len` bytes and ask for nothing but checksums and TCP segments? Pure. */
bool fy_net_hdr_ok(const struct fy_net_hdr *h, uint32_t len);

/* To send: iov[0] is a struct fy_net_hdr, then the frame. */
struct fy_net_tx {
    struct iovec *iov;
    unsigned n;
};

/* Received into data (FY_NET_FRAME_MAX bytes, the card's). */
struct fy_net_rx {
    struct fy_net_hdr hdr;
    uint8_t *data;
    uint32_t len;
};

struct fy_net_backend;

struct fy_net_backend_ops {
    /* It deals with checksums and TCP segments to send; and it gives such, as `configure` allows. */
    bool tx_offloads, rx_offloads;
    /* Others learn from frames where the card is: after a move one must be sent. */
    bool announce;
    unsigned (*pairs)(const struct fy_net_backend *b);
    /* To watch for frames (and room); -1: gone. */
    int (*fd)(const struct fy_net_backend *b, unsigned pair);
    /* Number of frames taken, from the first on. Fewer than n: *gone, or watch fd for room. */
    unsigned (*send)(struct fy_net_backend *b, unsigned pair, const struct fy_net_tx *f, unsigned n,
                     bool *gone);
    /* Number of frames put into f[0..max); 0: none is there, or *gone. */
    unsigned (*recv)(struct fy_net_backend *b, unsigned pair, struct fy_net_rx *f, unsigned max, bool *gone);
    /* What may be given to the driver (feature bits of virtio 1.2, 5.1.3) and over how many pairs frames are
     * spread. Optional. */
    void (*configure)(struct fy_net_backend *b, uint64_t features, unsigned pairs);
    /* Take a new descriptor in place of one that is gone; taken over on success. NULL: cannot be. */
    int (*attach)(struct fy_net_backend *b, int fd, struct fy_err *e);
    void (*free)(struct fy_net_backend *b);
};

struct fy_net_backend {
    const struct fy_net_backend_ops *ops;
};

#endif
