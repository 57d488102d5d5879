// SPDX-License-Identifier: Apache-2.0
/* The worker's end of its socket to ferryd (proto/job.proto). A thread inside reads what the daemon sends. */
#ifndef FERRY_MIGRATE_JOB_H
#define FERRY_MIGRATE_JOB_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "migrate/chan.h"
#include "proto/job.pb-c.h"

struct fy_job;

/* Unasked messages, called on the reading thread; they must not block or call fy_job_call. Any may be NULL.
 */
struct fy_job_events {
    void *arg;
    void (*cancel)(void *arg, const char *why);
    void (*set)(void *arg, const Ferry__SetJob *set);
    void (*channel)(void *arg, unsigned channel, int sock); /* takes the socket */
    void (*gone)(void *arg);                                /* the daemon's end closed */
};

/* Take the socket and await JobStart (10 s). NULL on failure. */
struct fy_job *fy_job_open(int sock, struct fy_err *e);

/* Begin to read. From here on events come. */
int fy_job_run(struct fy_job *j, const struct fy_job_events *events, struct fy_err *e);
void fy_job_free(struct fy_job *j);

const Ferry__JobStart *fy_job_start(const struct fy_job *j);
/* Take over descriptor `index` of JobStart (see proto/job.proto); -1 where there is none. */
int fy_job_take_fd(struct fy_job *j, unsigned index);

/* Send out (its id is set here) and await the daemon's answer. An answer with a code becomes *e. *answer,
 * where asked for, is freed with ferry__worker_in__free_unpacked; *fd gets its descriptor or -1. Any thread
 * but the reading one. */
int fy_job_call(struct fy_job *j, Ferry__WorkerOut *out, Ferry__WorkerIn **answer, int *fd, struct fy_err *e);

/* Send without an answer; failures are ignored: a lost daemon shows as `gone`. Any thread. */
void fy_job_tell(struct fy_job *j, Ferry__WorkerOut *out);

/* The last message: the report. `failure` NULL: completed. */
void fy_job_report(struct fy_job *j, Ferry__JobReport *report, const struct fy_err *failure);

/* A job's TLS side with the peers that JobStart pins. Takes descriptors 0 (key) and 1 (certificate). */
struct fy_tls *fy_job_tls(struct fy_job *j, bool server, bool anyone, struct fy_err *e);

#endif
