// SPDX-License-Identifier: Apache-2.0
/* A local message socket (hv/base/msg.h framing) on the event loop: sends are queued, never block. All calls
 * and callbacks on the loop's thread. */
#ifndef FERRY_HOST_CHAN_H
#define FERRY_HOST_CHAN_H

#include <protobuf-c/protobuf-c.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"

struct fyd_chan;

/* One message. buf is valid during the call only. Descriptors are closed after it unless the callee has put
 * -1 in their place. */
typedef void (*fyd_chan_msg_cb)(void *arg, const uint8_t *buf, size_t len, int *fds, int nfds);

/* The other end is gone or broke the framing: called once, last. The callee frees the channel. */
typedef void (*fyd_chan_closed_cb)(void *arg, const struct fy_err *why);

/* Take ownership of a connected seqpacket socket, also on failure. */
struct fyd_chan *fyd_chan_new(struct fy_loop *loop, int sock, fyd_chan_msg_cb on_msg,
                              fyd_chan_closed_cb on_closed, void *arg, struct fy_err *e);

/* Stop, close, drop what is queued. Allowed in its own callbacks; NULL is allowed. */
void fyd_chan_free(struct fyd_chan *c);

/* Queue one message; descriptors stay the caller's. Fails with FY_EUNREACHABLE when the other end is gone or
 * has left more than FYD_CHAN_QUEUE bytes unread (its owner should drop it). */
int fyd_chan_send(struct fyd_chan *c, const ProtobufCMessage *msg, const int *fds, int nfds,
                  struct fy_err *e);
#define FYD_CHAN_QUEUE (4u * 1024 * 1024)

/* Call on_msg for everything that has already arrived; on_closed may follow. Used when the other process is
 * known to have ended, so that its last words are heard before its death is acted on. */
void fyd_chan_drain(struct fyd_chan *c);

/* Free the channel once its queue has run empty (now, if it is); no callback comes any more. */
void fyd_chan_close_when_sent(struct fyd_chan *c);

#endif
