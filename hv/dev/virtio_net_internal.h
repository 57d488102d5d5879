// SPDX-License-Identifier: Apache-2.0
/* Private to the network card: virtio_net.c (life), virtio_net_tx.c, virtio_net_rx.c, virtio_net_ctrl.c
 * (control queue, filter, state). */
#ifndef FERRY_DEV_VIRTIO_NET_INTERNAL_H
#define FERRY_DEV_VIRTIO_NET_INTERNAL_H

#include "hv/dev/tokens.h"
#include "hv/dev/virtio_net.h"

/* Feature bits (virtio 1.2, 5.1.3). */
#define F_CSUM (1ull << 0)
#define F_GUEST_CSUM (1ull << 1)
#define F_CTRL_GUEST_OFFLOADS (1ull << 2)
#define F_MTU (1ull << 3)
#define F_MAC (1ull << 5)
#define F_GUEST_TSO4 (1ull << 7)
#define F_GUEST_TSO6 (1ull << 8)
#define F_GUEST_ECN (1ull << 9)
#define F_HOST_TSO4 (1ull << 11)
#define F_HOST_TSO6 (1ull << 12)
#define F_HOST_ECN (1ull << 13)
#define F_MRG_RXBUF (1ull << 15)
#define F_STATUS (1ull << 16)
#define F_CTRL_VQ (1ull << 17)
#define F_CTRL_RX (1ull << 18)
#define F_CTRL_VLAN (1ull << 19)
#define F_CTRL_RX_EXTRA (1ull << 20)
#define F_GUEST_ANNOUNCE (1ull << 21)
#define F_MQ (1ull << 22)
#define F_CTRL_MAC_ADDR (1ull << 23)
#define F_SPEED_DUPLEX (1ull << 63)
#define F_GUEST_OFFLOADS (F_GUEST_CSUM | F_GUEST_TSO4 | F_GUEST_TSO6 | F_GUEST_ECN)
#define F_HOST_OFFLOADS (F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN)

#define NET_ADDRESSES 64u /* of each kind that are kept; more: all are received */
#define NET_VLANS 4096u
#define NET_BATCH 16u  /* frames a call of the backend */
#define NET_TURN 256u  /* frames a turn of a queue */
#define NET_CHAINS 64u /* buffers that one received frame may be spread over */
#define NET_IOV (FY_VQ_SEGS + 1)

/* Commands of VIRTIO_NET_CTRL_RX, and bits of rx_mode. */
enum { RX_PROMISC, RX_ALLMULTI, RX_ALLUNI, RX_NOMULTI, RX_NOUNI, RX_NOBCAST, RX_COMMANDS };

/* What the driver has set by the control queue. */
struct net_driver {
    uint8_t mac[6];
    unsigned pairs;
    uint64_t offloads;
    uint32_t rx_mode;
    unsigned unicasts, multicasts;
    uint8_t unicast[NET_ADDRESSES][6], multicast[NET_ADDRESSES][6];
    bool all_unicast, all_multicast;
    bool has_vlans;
    uint8_t vlans[NET_VLANS / 8];
    bool announce;
};

struct net;
struct net_late;

struct net_pair {
    struct net *n;
    unsigned index;
    /* Received and not yet given to the driver: frames[at..count). */
    struct fy_net_rx frames[NET_BATCH];
    unsigned at, count;
    bool starved; /* waits for receive buffers */
    bool full;    /* the backend had no room for more */
    /* the card's thread */
    struct fy_watch *in, *out;
};

struct net {
    struct fy_virtio *v;
    struct fy_virtio_net_config config;
    char id[16];
    struct fy_iothread *io;
    struct fy_net_backend *b;
    uint64_t features; /* negotiated; 0 while there is no driver */
    bool link;
    bool stale;         /* frames from before the driver was ready may be waiting */
    bool loaded;        /* its state came from elsewhere and it has not run here */
    unsigned announces; /* frames still to be sent */
    struct net_driver d;
    struct net_late *late, **late_end; /* virtio_net_late.c; oldest first */
    unsigned late_count;
    size_t late_bytes;
    struct fy_tokens rx_tokens, tx_tokens;
    struct fy_net_counters rx, tx;
    struct net_pair pair[FY_NET_PAIRS_MAX];
    struct fy_watch *rx_timer, *tx_timer, *announce_timer;
    /* room for one turn */
    struct fy_vq_chain chain[NET_CHAINS];
    struct fy_net_hdr hdr[NET_BATCH];
    struct iovec iov[NET_BATCH][NET_IOV];
};

static inline unsigned net_ctrl_queue(const struct net *n)
{
    return n->features & F_MQ ? 2 * n->config.pairs : 2;
}

/* All with the card's lock held. */
/* tx, rx: the card's thread. Serve a pair's queue for a turn. */
void net_tx(struct net *n, unsigned pair);
void net_rx(struct net *n, unsigned pair);
void net_ctrl(struct net *n, unsigned queue);
/* Shall the frame reach the driver? */
bool net_wants(const struct net *n, const uint8_t *frame, uint32_t len);
/* A frame that says on which port the card is now (RFC 903), to the backend. */
void net_say_where(struct net *n);
/* The backend has gone. */
void net_link_lost(struct net *n);
/* Tell the backend what the driver takes. */
void net_configure(struct net *n);
/* Have watches and timers set anew on the card's thread. */
void net_again(struct net *n);
void net_driver_reset(struct net *n);
/* The oldest of the frames that came late, NULL: none; done with it; with all. */
struct fy_net_rx *net_late_head(struct net *n);
void net_late_drop(struct net *n);
void net_late_clear(struct net *n);

int net_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e);
int net_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e);

#endif
