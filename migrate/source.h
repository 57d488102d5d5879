// SPDX-License-Identifier: Apache-2.0
/* The sending side of a migration, shared by source*.c. One main thread; the pump has its own; cancel comes
 * on the job's reading thread and goes through the gate. */
#ifndef FERRY_MIGRATE_SOURCE_H
#define FERRY_MIGRATE_SOURCE_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/control/client.h"
#include "migrate/chan.h"
#include "migrate/codec.h"
#include "migrate/control.h"
#include "migrate/job.h"
#include "migrate/policy.h"
#include "migrate/rate.h"
#include "migrate/sender.h"
#include "proto/stream.pb-c.h"

/* What two processes take to answer each other on a host that is not busy, beside the path. */
#define FY_SOURCE_TURN_NS 300000ull

/* What may still happen: OPEN until either a cancel or the commit wins, for good. */
enum fy_gate { FY_GATE_OPEN, FY_GATE_CANCELLED, FY_GATE_COMMITTED };

struct fy_source {
    struct fy_job *job;
    const Ferry__JobStart *start;
    const Ferry__MigrateOptions *opts;
    uint64_t began_ns;

    pthread_mutex_t gate_lock; /* gate, cancel_err, and which channels there are to abort */
    enum fy_gate gate;
    struct fy_err cancel_err;
    struct fy_control control;
    struct fy_chan *data[FY_CHANNELS_MAX];
    struct fy_pump *pump;

    struct fy_tls *tls;
    int wake_fd;
    struct fy_rate rate;
    struct fy_codec_choice codec;
    unsigned codecs;
    bool sealed; /* the target knows SEALED records */
    unsigned channels;
    uint64_t round_trip_ns;
    uint8_t ticket[FY_TICKET_LEN];

    struct fy_ctl *ctl;
    Ferry__ControlOut *described; /* keeps the machine */
    Ferry__Machine *machine;
    bool was_paused; /* by an operator, before the move */
    int mem_fd;
    bool large_pages; /* all of its memory is there, in 2 MiB pages: cheap to map */
    uint64_t pages;
    uint32_t tracker;
    int bitmap_fd;
    uint64_t *bitmap;

    struct fy_policy policy; /* the main thread's */
    atomic_ullong
        asked_downtime_ns; /* a new budget from `job set`, taken over before the next decision; 0: none */
    uint64_t round;        /* number of the round under way */
    uint64_t acked;        /* rounds that the target has applied */
    uint64_t left_bytes;   /* at the last count */
    uint64_t round_bytes;  /* to be dealt with in this round, for progress */
    bool prepared;         /* HANDING_OVER is durable */
    bool relays;           /* the target takes frames that come here later */
    uint64_t last_progress_ns, round_began_ns;

    Ferry__JobReport report;
    struct fy_pump_totals totals; /* of the pump, once it has ended */
    char codec_name[16];
    char warning[FY_ERR_TEXT];
};

/* source_setup.c: connect, prove, negotiate, describe, open channels and log-dirty. */
int fy_source_connect(struct fy_source *s, struct fy_err *e);
int fy_source_open(struct fy_source *s, struct fy_err *e);

/* source_rounds.c: pre-copy until the policy wants to switch. */
int fy_source_rounds(struct fy_source *s, struct fy_err *e);
/* Wait for the round's end on this side (and, with ack, on the target's). deadline_ns of CLOCK_MONOTONIC, 0:
 * none. */
int fy_source_wait_round(struct fy_source *s, bool ack, uint64_t deadline_ns, struct fy_err *e);
/* Guest pages sent so far, of all kinds. */
uint64_t fy_source_pages_sent(struct fy_source *s);
void fy_source_progress(struct fy_source *s, const char *phase, bool force);

/* source_switch.c: pause, last pages, state, hand-over. */
int fy_source_switch(struct fy_source *s, struct fy_err *e);
/* source_frames.c: what comes to the guest's cards here goes after it; the guest runs there. */
void fy_source_relay(struct fy_source *s);

/* Put the gate from OPEN to COMMITTED; -1 with the cancel's error when it lost. */
int fy_source_commit_gate(struct fy_source *s, struct fy_err *e);

#endif
