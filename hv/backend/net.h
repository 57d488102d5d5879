// SPDX-License-Identifier: Apache-2.0
/* The kinds of network that a card can have (hv/dev/net_backend.h is what they offer it). None opens
 * anything: ferryd does and passes descriptors. */
#ifndef FERRY_BACKEND_NET_H
#define FERRY_BACKEND_NET_H

#include "hv/dev/net_backend.h"

/* A tap with `pairs` queues, a descriptor each (taken over, also on failure), opened with IFF_VNET_HDR and a
 * header of FY_NET_HDR_BYTES. */
struct fy_net_backend *fy_net_tap_new(const int *fds, unsigned pairs, struct fy_err *e);

/* A seqpacket socket to a process that is the network: a struct fy_net_hdr and a frame a message. fd is taken
 * over, also on failure; -1: there is none yet, the link is down until one is attached. */
struct fy_net_backend *fy_net_sock_new(int fd, struct fy_err *e);

#endif
