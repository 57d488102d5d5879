// SPDX-License-Identifier: Apache-2.0
/* Private to the socket device: virtio_vsock.c (device, queues, listening), vsock_conn.c (one connection). */
#ifndef FERRY_DEV_VSOCK_INTERNAL_H
#define FERRY_DEV_VSOCK_INTERNAL_H

#include "hv/dev/virtio_vsock.h"

#define CONNECTIONS_MAX 64
#define BUFFER_BYTES 65536u /* that the guest may send before we have passed it on */
#define GREETING_MAX 32u    /* "CONNECT 4294967295\n" */
#define HOST_CID 2u
#define FIRST_PORT 0x40000000u

enum { OP_REQUEST = 1, OP_RESPONSE, OP_RST, OP_SHUTDOWN, OP_RW, OP_CREDIT_UPDATE, OP_CREDIT_REQUEST };
#define SHUTDOWN_RECEIVE 1u
#define SHUTDOWN_SEND 2u
#define TYPE_STREAM 1u

struct vsock_header {
    uint64_t src_cid, dst_cid;
    uint32_t src_port, dst_port;
    uint32_t len;
    uint16_t type, op;
    uint32_t flags;
    uint32_t buf_alloc, fwd_cnt;
} __attribute__((packed));

enum conn_state {
    CONN_FREE,
    CONN_GREETING, /* from the host: its first line is not whole yet */
    CONN_ASKED,    /* REQUEST goes, or has gone, to the guest */
    CONN_WAITING,  /* from the guest: `connect` has been asked */
    CONN_OPEN,
    CONN_DEAD, /* to be freed on the I/O thread */
};

struct conn {
    struct vsock *s;
    enum conn_state state;
    uint64_t id;
    int fd;                               /* -1: none */
    struct fy_watch *readable, *writable; /* NULL: not wanted now; the I/O thread's */
    uint32_t guest_port, host_port;
    char greeting[GREETING_MAX];
    unsigned greeted;
    unsigned pending; /* bit OP: a packet of that kind is to be sent */
    uint32_t shutdown_flags;
    bool readable_now, ended; /* the host's side has bytes; has ended */
    bool guest_ended;         /* the guest sends no more */
    /* credit (5.10.6.3): of the guest's buffer, and of ours */
    uint32_t peer_alloc, peer_fwd, sent;
    uint32_t received, fwd, fwd_told;
    uint8_t *out; /* what the host's socket has not taken: a ring of BUFFER_BYTES */
    uint32_t out_at, out_len;
    uint32_t held; /* of out_len, the last bytes: the gate keeps them back */
};

struct vsock {
    struct fy_virtio *v;
    struct fy_vsock_config config;
    int listen_fd;
    struct fy_watch *listening;
    struct conn conns[CONNECTIONS_MAX];
    uint64_t next_id;
    uint32_t next_port;
    unsigned turn; /* connection that is served first next time */
    /* resets to who is no connection here */
    struct {
        uint32_t guest_port, host_port;
    } strays[CONNECTIONS_MAX];
    unsigned stray_count;
    bool reset_event; /* the driver is to be told of a transport reset */
};

/* vsock_conn.c; the device's lock held, the I/O thread where watches change. */
struct conn *conn_new(struct vsock *s, int fd);
/* Its end: closed at once, freed later. */
void conn_close(struct conn *c);
void conn_reap(struct vsock *s);
/* Have the watches that its state calls for. */
void conn_watch(struct conn *c);
/* Bytes from the guest, at most BUFFER_BYTES waiting in all. false: more than it had credit for. */
bool conn_take(struct conn *c, const struct fy_vq_chain *chain, uint64_t at, uint32_t len);
/* How many bytes the guest takes now. */
uint32_t conn_credit(const struct conn *c);

/* What waits goes to the host's socket. */
void conn_flush(struct conn *c);

/* virtio_vsock.c: move everything that can move, both ways, and watch for the rest. The I/O thread. */
void vsock_settle(struct vsock *s);

#endif
