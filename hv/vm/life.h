// SPDX-License-Identifier: Apache-2.0
/* The life of a guest in this process: who may pause, resume, hand over and end it, and what state it is in.
 * The rules of "exactly one runner" that the hypervisor has to keep are here (docs/spec/control.md). Main
 * thread only. */
#ifndef FERRY_VM_LIFE_H
#define FERRY_VM_LIFE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/vm/machine.h"
#include "proto/control.pb-c.h"

/* A pause that one connection holds; zero is "none". */
struct fy_lease {
    bool held;
    uint64_t epoch; /* a resolve ends every lease of an older epoch */
};

struct fy_life {
    struct fy_machine *m;
    void (*changed)(void *arg); /* the state is another one; may be called while a call below runs */
    void *arg;
    Ferry__GuestState last;
    bool incoming; /* came by hand-over and has not been run yet */
    bool loaded;
    bool user_paused;
    unsigned leases;
    uint64_t lease_epoch;
    bool latched;
    uint8_t handover_id[16];
    bool has_handover_id;
    bool ran_by_id;         /* run(handover_id) was carried out here */
    bool resolved_here;     /* resolve(handover_id, run_here) was carried out here */
    bool disks_away;        /* its disks' locks were given up for a hand-over and not got back yet */
    struct fy_watch *retry; /* tries again to get them back */
    uint64_t run_took_ns, first_run_ns;
    bool stopped, crashed;
    bool finish; /* this process is to end */
    char end_report[FY_ERR_TEXT];
    char warning[FY_ERR_TEXT];
};

void fy_life_init(struct fy_life *l, struct fy_machine *m, bool incoming, bool paused);
/* Before its machine and loop are freed. */
void fy_life_done(struct fy_life *l);
/* Let a fresh guest run, unless it is to start paused. */
void fy_life_start(struct fy_life *l);

Ferry__GuestState fy_life_state(struct fy_life *l);
/* Handed over, or about to be: it runs here again only if that is resolved so. Main thread. */
bool fy_life_latched(const struct fy_life *l);
/* Why it crashed or how it ended, "" while it lives. */
const char *fy_life_report(struct fy_life *l);

/* The guest ended itself: the machine's `ended` callback. */
void fy_life_ended(struct fy_life *l);

/* Pause for a lease, or (NULL) for an operator. FY_ESTATE unless the guest runs or is paused. */
int fy_life_pause(struct fy_life *l, struct fy_lease *lease, uint64_t *ns, struct fy_err *e);
int fy_life_resume(struct fy_life *l, struct fy_lease *lease, struct fy_err *e);
/* The lease's holder is gone. */
void fy_life_lease_end(struct fy_life *l, struct fy_lease *lease);

/* Let a guest that counts instructions, paused by an operator only, go on until `count` (not behind it), then
 * pause it for the operator again; it may stand there at once. */
int fy_life_run_to(struct fy_life *l, uint64_t count, struct fy_err *e);
/* It stands there: the machine's `reached` callback. */
void fy_life_reached(struct fy_life *l);

/* Needs a paused guest; the same ID again has no effect. */
int fy_life_latch(struct fy_life *l, const uint8_t id[16], struct fy_err *e);
int fy_life_resolve(struct fy_life *l, const uint8_t id[16], bool run_here, struct fy_err *e);

/* GUEST_INCOMING only. */
int fy_life_load(struct fy_life *l, const uint8_t *buf, size_t len, struct fy_err *e);
/* disks: descriptors of its disks' files, which stay the caller's. */
int fy_life_run(struct fy_life *l, const uint8_t id[16], bool paused, const int *disks, unsigned disk_count,
                struct fy_err *e);

int fy_life_reset(struct fy_life *l, struct fy_err *e);
int fy_life_quit(struct fy_life *l, bool discard, struct fy_err *e);

#endif
