// SPDX-License-Identifier: Apache-2.0
/* What a guest's network cards are joined to on this host: taps, bridges (net.c) and user networks, each a
 * ferry-net (usernet.c). Loop thread only. */
#ifndef FERRY_HOST_NET_H
#define FERRY_HOST_NET_H

#include "hv/host/daemon.h"

#define FYD_NIC_QUEUES 8

/* Why card i cannot be joined here, "" when it can; opens nothing for good. starts: it is a new guest's,
 * whose forwards must be free. */
void fyd_nic_check(const Ferry__Nic *nic, unsigned i, bool starts, char *why, size_t room);
/* What a new guest's cards lack here, a line each: FY_EREFUSED, or FY_EUSAGE for too many. */
int fyd_nics_check(Ferry__Nic *const *nics, size_t count, struct fy_err *e);
/* Open the queues of a tap, or make one on a bridge (it goes with its last descriptor). The number of
 * descriptors, which are the caller's, or -1. */
int fyd_nic_open(const Ferry__Nic *nic, unsigned i, int fds[FYD_NIC_QUEUES], struct fy_err *e);

/* Is it a user network, whose connections end with a move? */
bool fyd_nic_is_user(const Ferry__Nic *nic);
/* Start card i's ferry-net. forward: open its forwards, else fyd_usernet_forward does. *frames: the guest's
 * end, the caller's. */
int fyd_usernet_start(struct fyd_guest *g, const Ferry__Nic *nic, unsigned i, bool forward, int *frames,
                      struct fy_err *e);
/* The guest is ours: have every forward opened. */
void fyd_usernet_forward(struct fyd_guest *g);
/* The hypervisor says which cards have a network: start anew what has ended. */
void fyd_usernet_status(struct fyd_guest *g, const Ferry__StatusReply *s);
/* The guest's process is gone; its networks end by themselves. */
void fyd_usernet_forget(struct fyd_guest *g);
/* This daemon ends; networks do not. After the guests. */
void fyd_usernets_free_all(struct fyd *d);

#endif
