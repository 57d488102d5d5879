// SPDX-License-Identifier: Apache-2.0
/* Messages with descriptors over unix SOCK_SEQPACKET sockets: the one framing of every local socket
 * (control, job, API). A datagram is one protobuf message of at most FY_MSG_MAX bytes. */
#ifndef FERRY_BASE_MSG_H
#define FERRY_BASE_MSG_H

#include <stddef.h>

#include "hv/base/err.h"

#define FY_MSG_MAX (128 * 1024)
#define FY_MSG_FDS 32

/* Send one message with nfds (0..FY_MSG_FDS) descriptors, which stay the caller's. Blocks where the
 * socket does. Code FY_EUNREACHABLE when the other end is gone; -2 instead of -1 when the
 * socket is non-blocking and full (nothing was sent). Any thread, one sender at a time. */
int fy_msg_send(int sock, const void *buf, size_t len, const int *fds, int nfds, struct fy_err *e);

/* Receive one message into buf (at least FY_MSG_MAX bytes). Returns its length, 0 at end of stream,
 * -1 on error; -2 when the socket is non-blocking and nothing is there. Descriptors arrive with
 * CLOEXEC in fds[0..*nfds) and are the caller's; surplus ones are closed. A message that was cut is
 * an error (FY_ECORRUPT), its descriptors closed. */
long fy_msg_recv(int sock, void *buf, int *fds, int *nfds, struct fy_err *e);

/* A connected pair; both ends CLOEXEC. 0 or -1. */
int fy_msg_pair(int sv[2], struct fy_err *e);

/* Listen at path (an old socket file there is replaced) with the given mode; connect to one. Return the
 * descriptor (CLOEXEC) or -1. Paths longer than sun_path go through /proc/self/fd of the directory. */
int fy_msg_listen(const char *path, unsigned mode, struct fy_err *e);
int fy_msg_connect(const char *path, struct fy_err *e);

#endif
