// SPDX-License-Identifier: Apache-2.0
/* Between handjob.c and handact.c (the actions of the hand-over's driver), and what workers' calls need of
 * them. */
#ifndef FERRY_HOST_HANDJOB_H
#define FERRY_HOST_HANDJOB_H

#include "hv/host/daemon.h"

void fyd_ho_spawn(struct fyd_ho *h);
void fyd_ho_run(struct fyd_ho *h);
void fyd_ho_status(struct fyd_ho *h);
void fyd_ho_resolve(struct fyd_ho *h, bool run_here);
void fyd_ho_ask_peer(struct fyd_ho *h);
/* The peer's answer, or that there was none: outcome 0. */
void fyd_ho_peer_answered(struct fyd_ho *h, unsigned outcome);
void fyd_ho_source_settled(struct fyd_ho *h, bool here);
void fyd_ho_target_settled(struct fyd_ho *h, bool here);

/* The first record could not be written: nothing has begun, and the guest is as it was. */
void fyd_ho_never_began(struct fyd_ho *h);

void fyd_job_answer_query(struct fyd_job *job, unsigned outcome, int code, const char *text);
void fyd_job_uncertain(struct fyd_job *job);

#endif
