// SPDX-License-Identifier: Apache-2.0
/* Between jobs.c, job_calls.c and hosts.c. */
#ifndef FERRY_HOST_JOBS_H
#define FERRY_HOST_JOBS_H

#include "hv/host/daemon.h"

/* Jobs that people see: moves out and in. The others (queries, pairing) come and go unseen. */
bool fyd_job_listed(const struct fyd_job *j);

/* Write its record behind. */
void fyd_job_persist(struct fyd_job *j);

/* The worker of a `host join` has ended. */
void fyd_host_join_over(struct fyd_job *j);

#endif
