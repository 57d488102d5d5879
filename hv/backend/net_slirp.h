// SPDX-License-Identifier: Apache-2.0
/* The user network: a TCP/IP stack in this process, which speaks for the guest by ordinary sockets (libslirp,
 * whose one door net_slirp.c is). The network is 10.0.2.0/24: the host 10.0.2.2, names 10.0.2.3, the guest by
 * DHCP 10.0.2.15. One thread. */
#ifndef FERRY_BACKEND_NET_SLIRP_H
#define FERRY_BACKEND_NET_SLIRP_H

#include <poll.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/machine.pb-c.h"

struct fy_slirp;

/* frame: a frame for the guest; it stays the stack's. */
typedef void (*fy_slirp_frame_cb)(void *arg, const uint8_t *frame, size_t len);

/* mtu 0: 1500. NULL on failure. */
struct fy_slirp *fy_slirp_new(uint32_t mtu, fy_slirp_frame_cb frame, void *arg, struct fy_err *e);
void fy_slirp_free(struct fy_slirp *s);
/* A frame from the guest, as on the wire, checksums whole. */
void fy_slirp_input(struct fy_slirp *s, const uint8_t *frame, size_t len);
/* Open a forward. FY_EUSAGE: an address that is none; FY_EEXISTS: the port is in use; FY_ERESOURCE: another
 * refusal of the kernel's. */
int fy_slirp_forward(struct fy_slirp *s, const Ferry__NicForward *f, struct fy_err *e);
/* Descriptors to poll: at most `room` are put into fds; *timeout_ms (as poll takes it) is lowered where the
 * stack needs the time. Number of them. Then fy_slirp_serve with what poll has said. */
unsigned fy_slirp_fill(struct fy_slirp *s, struct pollfd *fds, unsigned room, int *timeout_ms);
void fy_slirp_serve(struct fy_slirp *s, const struct pollfd *fds, unsigned n, bool poll_failed);

#endif
