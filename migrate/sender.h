// SPDX-License-Identifier: Apache-2.0
/* The source's pump: one thread a data channel, each from the dirty bitmap through zero scan, compression and
 * encryption to its own socket. Ranges are shared out as threads come for them; there is no feeder. */
#ifndef FERRY_MIGRATE_SENDER_H
#define FERRY_MIGRATE_SENDER_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/control/client.h"
#include "migrate/chan.h"
#include "migrate/codec.h"
#include "migrate/rate.h"
#include "proto/stream.pb-c.h"

struct fy_pump_config {
    int mem_fd;             /* guest memory, readable */
    bool map;               /* read through a mapping: memory is there whole, in 2 MiB pages */
    uint64_t pages;         /* of the memfd */
    const uint64_t *bitmap; /* shared with ferry-hv: what was taken */
    struct fy_ctl *ctl;
    uint32_t tracker;
    struct fy_chan **chans; /* data channels; stay the caller's, used by the pump's threads only */
    unsigned count;
    struct fy_codec_choice codec;
    unsigned codecs; /* what both sides know */
    bool sealed;     /* the target knows SEALED records */
    struct fy_rate *rate;
    int wake_fd; /* eventfd, written when a round ends or fails */
};

struct fy_pump_totals {
    uint64_t pages_zero, pages_skipped, pages_raw, pages_lz4, pages_zstd;
    uint64_t done_pages; /* in the present round, holes too */
    uint64_t wire_bytes;
};

struct fy_pump;
struct fy_pump *fy_pump_new(const struct fy_pump_config *config, struct fy_err *e);
/* Ends the threads; channels must have been aborted if a round is under way. */
void fy_pump_free(struct fy_pump *p);

/* Begin round number `round` over every page of the memory. take_each: take ranges from log-dirty as they are
 * come to (first and large rounds); else the whole bitmap was taken before. skip_holes: leave out what was
 * never touched. */
void fy_pump_begin(struct fy_pump *p, uint64_t round, bool take_each, bool skip_holes);

/* 1 when the round's pages and barriers are on the wire, 0 while it runs, -1 when a thread failed. */
int fy_pump_poll(struct fy_pump *p, struct fy_err *e);

/* Stop at the next batch. Any thread; the caller aborts the channels too. */
void fy_pump_stop(struct fy_pump *p);

/* Sums so far. Any thread. */
void fy_pump_totals(struct fy_pump *p, struct fy_pump_totals *out);

/* Records and digest of channel i (valid between rounds). */
void fy_pump_summary(const struct fy_pump *p, unsigned i, uint64_t *records, uint64_t *digest);

#endif
