// SPDX-License-Identifier: Apache-2.0
/* Log-dirty: any number of independent trackers over one source of dirty pages (KVM's log, a software CPU's)
 * and the devices' writes.
 *
 * Page numbers are those of the memfd (offset / 4096). A page may be read by the taker only after the take
 * that covers it has returned. Every slot has one lock; what the source reports, and every mask that is
 * cleared in it, goes to all trackers, and a clear uses only bits got since the last clear of that page.
 *
 * Contract: docs/spec/control.md, "Log-dirty"; messages: proto/control.proto (Tracker*). */
#ifndef FERRY_MEM_LOGDIRTY_H
#define FERRY_MEM_LOGDIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/mem/guest.h"

/* The source of dirty pages. Bit i of a slot's mask is the page at slot.offset / 4096 + i. Calls for one slot
 * never overlap; calls for two slots may. */
struct fy_dirty_ops {
    /* Start logging on all slots. *initially_set: every page counts as dirty and unprotected until its first
     * clear; else every page is clean and protected. */
    int (*enable)(void *arg, bool *initially_set, struct fy_err *e);
    void (*disable)(void *arg);
    /* OR the slot's dirty pages into mask (all of the slot). Bits stay set in the source until cleared, or
     * are already clear and re-protected (*cleared true: the dirty ring). */
    int (*fetch)(void *arg, unsigned slot, uint64_t *mask, bool *cleared, struct fy_err *e);
    /* Clear and re-protect the pages of mask in [first, first + count) of the slot; first and count are
     * multiples of 64 and mask's bit 0 is page first. Never called where fetch says cleared. */
    int (*clear)(void *arg, unsigned slot, uint64_t first, uint64_t count, const uint64_t *mask,
                 struct fy_err *e);
};

struct fy_logdirty;
struct fy_tracker;

/* Takes m->written for itself. ops and arg outlive it. Free it after its trackers. */
struct fy_logdirty *fy_logdirty_new(struct fy_gmem *m, const struct fy_dirty_ops *ops, void *arg,
                                    struct fy_err *e);
void fy_logdirty_free(struct fy_logdirty *ld);

/* Open a tracker that starts with every page dirty (start_all) or none. The first one starts logging. NULL
 * and no change on error. The calls below this line come from one thread (the main one). */
struct fy_tracker *fy_tracker_open(struct fy_logdirty *ld, bool start_all, struct fy_err *e);
/* Close it; the last one stops logging. NULL is allowed. */
void fy_tracker_close(struct fy_tracker *t);

/* The shared bitmap: a memfd of FY_BITMAP_WORDS(pages) words, sealed against resizing; the tracker's. */
int fy_tracker_fd(const struct fy_tracker *t);
uint64_t fy_tracker_pages(const struct fy_tracker *t);

/* Move the dirty bits of [first, first + count) into the shared bitmap (its bits in the range are replaced)
 * and re-protect those pages. refresh: ask the source first. dirty: bits set in the range; remaining: bits
 * known set after this take, whole guest. FY_EUSAGE for a bad range. When the source fails, every page of the
 * slot counts as dirty and the call succeeds. Does not pause vCPUs. */
int fy_tracker_take(struct fy_tracker *t, uint64_t first, uint64_t count, bool refresh, uint64_t *dirty,
                    uint64_t *remaining, struct fy_err *e);
/* All bits taken so far have been dealt with; or are dirty again. */
void fy_tracker_done(struct fy_tracker *t);
void fy_tracker_giveback(struct fy_tracker *t);
/* Dirty bits known now (not the taken ones). */
uint64_t fy_tracker_count(struct fy_tracker *t, bool refresh);

#endif
