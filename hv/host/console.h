// SPDX-License-Identifier: Apache-2.0
/* Consoles of guests that have moved: asked of the peer's daemon by a worker, and given to one. The main
 * thread. */
#ifndef FERRY_HOST_CONSOLE_H
#define FERRY_HOST_CONSOLE_H

#include "hv/host/daemon.h"

/* Answer c with the console of a guest that has moved away, or why it cannot be had: after the peer has
 * spoken. */
void fyd_console_elsewhere(struct fyd_client *c, const struct fyd_guest *g, const Ferry__ApiConsole *op);
/* The worker of such a job says that the peer has opened it; the job is over. */
void fyd_console_opened(struct fyd_job *j, const Ferry__ConsoleOpened *o);
void fyd_console_over(struct fyd_job *j);

/* A peer's worker asks for a guest's console: given if the guest came from that peer. Answers the job's call.
 */
void fyd_console_serve(struct fyd_job *j, const Ferry__OpenConsole *m);

#endif
