// SPDX-License-Identifier: Apache-2.0
/* Between guests.c, launch.c and guest_status.c: what the rest of the daemon does not call. */
#ifndef FERRY_HOST_GUESTS_H
#define FERRY_HOST_GUESTS_H

#include "hv/host/daemon.h"

/* Its hypervisor says that it has ended: keep the report, let the process go. */
void fyd_guest_ended_word(struct fyd_guest *g, bool crashed, const char *report, int exit_status);

/* Its process is dead and reaped; how: "was ended by signal 9 (Killed)". */
void fyd_guest_process_ended(struct fyd_guest *g, const char *how);

/* Have cb(g) run from the loop; a forgotten guest is freed after the last of them. cb may be NULL. */
void fyd_guest_post(struct fyd_guest *g, void (*cb)(struct fyd_guest *g));

/* Read HvReady if it has come; true when the socket has been dealt with. */
bool fyd_launch_read_ready(struct fyd_guest *g);

/* The hypervisor is in this state now. */
void fyd_guest_hv_state(struct fyd_guest *g, Ferry__GuestState state, const char *report, int exit_status);
void fyd_guest_forget_nics(struct fyd_guest *g);
void fyd_guest_take_status(struct fyd_guest *g, const Ferry__StatusReply *s);

/* The link broke while the process lives: try once more, else end it. */
void fyd_guest_relink(void *arg);

/* At the end of the daemon: records only, hypervisors run on. */
void fyd_guests_free_all(struct fyd *d);

/* A memfd with the packed description. */
int fyd_machine_memfd(const Ferry__Machine *m, struct fy_err *e);

#endif
