// SPDX-License-Identifier: Apache-2.0
/* Socket device (virtio 1.2, 5.10): streams between the guest and unix sockets on the host. Somebody on the
 * host connects to a listening socket and says "CONNECT PORT\n"; the device answers "OK PORT\n" with its own
 * port once the guest has accepted, or closes. A guest that connects to CID 2 is joined to a socket that
 * `connect` finds.
 *
 * Connections do not move: on the other host the guest's driver is told of a transport reset and ends them
 * all. */
#ifndef FERRY_DEV_VIRTIO_VSOCK_H
#define FERRY_DEV_VIRTIO_VSOCK_H

#include "hv/dev/gate.h"
#include "hv/dev/virtio.h"

#define FY_VSOCK_CID_MIN 3u

struct fy_vsock_config {
    unsigned slot;
    uint32_t cid;         /* the guest's; FY_VSOCK_CID_MIN at least */
    struct fy_gate *gate; /* may be NULL */
    struct fy_iothread *io;
    void *arg;
    /* The guest asks for a connection to `port` of the host: find one and call fy_vsock_answer with this id,
     * once, from any thread but not from here. The I/O thread, with the device's lock held. NULL: nobody
     * answers there. */
    void (*connect)(void *arg, uint32_t port, uint64_t id);
};

int fy_virtio_vsock_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_vsock_config *config,
                        struct fy_virtio **v, struct fy_device *out, struct fy_err *e);
/* Serve who connects to this listening stream socket; taken over, also on failure. Once, while the machine is
 * built or paused. */
int fy_vsock_listen(struct fy_virtio *vsock, int fd, struct fy_err *e);
/* The socket that a guest's connection is joined to (taken over), or -1: it is refused. An id that is not
 * known (the guest gave up) closes it. Any thread. */
void fy_vsock_answer(struct fy_virtio *vsock, uint64_t id, int fd);

#endif
