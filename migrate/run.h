// SPDX-License-Identifier: Apache-2.0
/* The kinds of job that ferry-migrate runs. Each takes an opened job, runs it to its report and returns an
 * enum fy_code. */
#ifndef FERRY_MIGRATE_RUN_H
#define FERRY_MIGRATE_RUN_H

#include <stdint.h>

#include "migrate/job.h"

int fy_run_send(struct fy_job *job, uint64_t began_ns);
int fy_run_receive(struct fy_job *job, uint64_t began_ns);
int fy_run_query(struct fy_job *job);
int fy_run_answer(struct fy_job *job);
int fy_run_console(struct fy_job *job);
int fy_run_console_serve(struct fy_job *job);
int fy_run_pair_join(struct fy_job *job);
int fy_run_pair_accept(struct fy_job *job);

#endif
