// SPDX-License-Identifier: Apache-2.0
/* ferryd's client of a ferry-hv's control socket, on the event loop. */
#ifndef FERRY_HOST_HVLINK_H
#define FERRY_HOST_HVLINK_H

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "proto/control.pb-c.h"

struct fyd_hv;

/* The answer to one call: err is NULL and r the answer, or err says why there is none (ferry-hv refused, the
 * time ran out, the connection ended) and r is NULL. Called exactly once a call, never before the call
 * returns. Descriptors (fds[0..nfds)) are closed after it unless the callee has put -1 in their place. It may
 * not free the link. */
typedef void (*fyd_hv_cb)(void *arg, const struct fy_err *err, const Ferry__Response *r, int *fds, int nfds);

/* ferry-hv's state changed (after a subscribe call). */
typedef void (*fyd_hv_event_cb)(void *arg, const Ferry__Event *ev);

/* The connection ended; every open call has been answered with an error. The callee may free the link. */
typedef void (*fyd_hv_closed_cb)(void *arg);

/* Take ownership of a connected socket, also on failure. */
struct fyd_hv *fyd_hv_new(struct fy_loop *loop, int sock, fyd_hv_event_cb on_event,
                          fyd_hv_closed_cb on_closed, void *arg, struct fy_err *e);

/* Answer every open call with FY_ECANCELLED and close. NULL is allowed. */
void fyd_hv_free(struct fyd_hv *hv);

/* Send req (its id is set here) with descriptors, which stay the caller's; the answer is awaited for
 * timeout_ms. */
void fyd_hv_call(struct fyd_hv *hv, Ferry__Request *req, const int *fds, int nfds, unsigned timeout_ms,
                 fyd_hv_cb cb, void *arg);

/* Deliver what has already arrived (see fyd_chan_drain). */
void fyd_hv_drain(struct fyd_hv *hv);

#endif
