// SPDX-License-Identifier: Apache-2.0
/* The output gate: all that somebody outside of the machine can see (frames, disk writes and what is said of
 * them) passes it in the order in which it came. Open: it passes at once. Held: it is kept, by epoch, until
 * its epoch is released.
 *
 * A producer embeds a struct fy_gate_item in what it wants to put out:
 *
 *     if (fy_gate_pass(gate, &frame->item))
 *         send(frame);
 *     // else frame->item.pass(&frame->item) is called later: it sends
 *
 * Threads: fy_gate_pass from any thread, also with a device's lock held: it calls nothing. hold, release,
 * open and discard from one thread (the main one), with no lock held that a pass or drop callback takes. */
#ifndef FERRY_DEV_GATE_H
#define FERRY_DEV_GATE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

struct fy_gate;

/* The producer's; untouched by it between a fy_gate_pass that gave false and the call of pass or drop, of
 * which exactly one comes. Either may free it. */
struct fy_gate_item {
    /* Its epoch has been released: put it out. On the thread that releases, no lock of the gate held. */
    void (*pass)(struct fy_gate_item *item);
    /* It will never be put out: free it. As pass. */
    void (*drop)(struct fy_gate_item *item);
    struct fy_gate_item *next; /* the gate's */
    uint64_t epoch;            /* the gate's */
};

/* Open. NULL when memory is short. */
struct fy_gate *fy_gate_new(struct fy_err *e);
/* Drops what is held. After its producers. NULL is allowed. */
void fy_gate_free(struct fy_gate *g);

/* true: put it out now, the item has not been kept. false: it is kept. Also false, for an item that follows,
 * as long as earlier ones are on their way out. A gate of NULL is open. */
bool fy_gate_pass(struct fy_gate *g, struct fy_gate_item *item);

/* Begin an epoch, and hold if the gate was open: what comes from now on belongs to it. Returns its number: 1
 * for the first, then one more each time, also after an open. While the machine is paused, so that no
 * producer is between a fy_gate_pass that said true and its output. */
uint64_t fy_gate_hold(struct fy_gate *g);
/* What belongs to epochs up to and including `epoch` passes, in the order in which it came. FY_EUSAGE, and
 * nothing passes, for the epoch that is going on or a later one. */
int fy_gate_release(struct fy_gate *g, uint64_t epoch, struct fy_err *e);
/* Everything passes and the gate is open. */
void fy_gate_open(struct fy_gate *g);
/* Everything held is dropped; the gate stays as it is. For who has lost the right to say it. */
void fy_gate_discard(struct fy_gate *g);

/* Is it held, and how many items are kept? Any thread. */
bool fy_gate_holding(struct fy_gate *g);
/* The epoch to which what comes now belongs; 0 while the gate is open. Any thread. */
uint64_t fy_gate_epoch(struct fy_gate *g);
uint64_t fy_gate_kept(struct fy_gate *g);

#endif
