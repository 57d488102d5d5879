// SPDX-License-Identifier: Apache-2.0
/* Log-dirty of a disk: any number of independent trackers of which blocks were written, with log-dirty's
 * interface (hv/mem/logdirty.h). A block is FY_BLOCKDIRTY_BYTES; it is marked after it was written (or
 * discarded), before the guest hears of it, so that who takes a mark reads what was written. A range that a
 * tracker took may be written again at once: then it is marked again.
 *
 * Threads: the device marks on any thread; one lock inside. Trackers are opened, taken and closed on one
 * thread (the main one). */
#ifndef FERRY_DEV_BLOCKDIRTY_H
#define FERRY_DEV_BLOCKDIRTY_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"

#define FY_BLOCKDIRTY_BYTES 65536u

struct fy_blockdirty;
struct fy_blocktracker;

/* Of a disk of `bytes`. NULL when memory is short. Free it after its trackers. */
struct fy_blockdirty *fy_blockdirty_new(uint64_t bytes, struct fy_err *e);
void fy_blockdirty_free(struct fy_blockdirty *bd);

/* For the device. before: called on the writing thread before bytes of the disk change: who wants them as
 * they are reads them now. written: they have changed. Ranges lie inside the disk. */
void fy_blockdirty_before(struct fy_blockdirty *bd, uint64_t offset, uint64_t bytes);
void fy_blockdirty_written(struct fy_blockdirty *bd, uint64_t offset, uint64_t bytes);

/* Have `before` called with ranges of bytes that are about to change, NULL: no longer. While nothing is in
 * flight. */
void fy_blockdirty_hook(struct fy_blockdirty *bd, void (*before)(void *arg, uint64_t offset, uint64_t bytes),
                        void *arg);

/* Starts with every block dirty (start_all) or none. NULL and no change when memory is short. */
struct fy_blocktracker *fy_blocktracker_open(struct fy_blockdirty *bd, bool start_all, struct fy_err *e);
void fy_blocktracker_close(struct fy_blocktracker *t);

/* The shared bitmap, one bit a block: a memfd sealed against resizing; the tracker's. */
int fy_blocktracker_fd(const struct fy_blocktracker *t);
uint64_t fy_blocktracker_blocks(const struct fy_blocktracker *t);

/* As fy_tracker_take, done, giveback and count, in blocks. FY_EUSAGE for a bad range. */
int fy_blocktracker_take(struct fy_blocktracker *t, uint64_t first, uint64_t count, uint64_t *dirty,
                         uint64_t *remaining, struct fy_err *e);
void fy_blocktracker_done(struct fy_blocktracker *t);
void fy_blocktracker_giveback(struct fy_blocktracker *t);
uint64_t fy_blocktracker_count(struct fy_blocktracker *t);

#endif
