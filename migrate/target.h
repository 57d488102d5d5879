// SPDX-License-Identifier: Apache-2.0
/* The receiving side of a migration, shared by target*.c: one main thread on the control channel, the sink's
 * threads on the data channels; the job's reading thread brings data channels and cancels. */
#ifndef FERRY_MIGRATE_TARGET_H
#define FERRY_MIGRATE_TARGET_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>

#include "hv/base/fault.h"
#include "hv/control/client.h"
#include "migrate/control.h"
#include "migrate/job.h"
#include "migrate/receiver.h"

struct fy_target {
    struct fy_job *job;
    const Ferry__JobStart *start;
    uint64_t began_ns;
    struct fy_tls *tls;
    struct fy_control control;
    int wake_fd;
    pthread_mutex_t lock; /* sink, control and gone against the job's reading thread */
    struct fy_sink *sink;
    bool has_nics; /* of its machine */
    bool gone;
    struct fy_err gone_err;
    struct fy_ctl *ctl;
    int mem_fd, state_fd;
    uint64_t memory_pages; /* of the memfd: RAM and the areas behind it */
    uint64_t state_bytes;
    uint64_t acked;
    uint8_t ticket[FY_TICKET_LEN];
    unsigned channels;
    bool plaintext, verify, start_paused, plan_only;
    bool created; /* there is an incoming guest to abort */
    bool committed;
    uint64_t ready_ns;
    char warning[FY_ERR_TEXT];
    Ferry__JobReport report;
};

/* target_setup.c: greet, take the description, have the daemon make the guest or refuse it with all reasons.
 */
int fy_target_hello(struct fy_target *t, struct fy_err *e);
int fy_target_description(struct fy_target *t, struct fy_err *e);

/* Arrive at a fault point as an error. */
int fy_target_fault(enum fy_fault point, struct fy_err *e);

#endif
