// SPDX-License-Identifier: Apache-2.0
/* The console's log on disk: two files that are filled by turns, each up to a limit, so that the last output
 * of a guest outlives its hypervisor and is bounded. Written on the loop's thread: a slow disk holds up no
 * vCPU. */
#ifndef FERRY_VM_CONLOG_H
#define FERRY_VM_CONLOG_H

#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"

#define FY_CONLOG_FILE_MAX (1u << 20) /* bytes of one of the two files */
#define FY_CONLOG_WAITING 262144u     /* bytes not yet written; what is beyond is lost, and the log says so */

struct fy_conlog;

/* fds: the two files, for writing, the caller's while it lives. Goes on in the one written last. max: bytes
 * of a file. NULL when memory is short. */
struct fy_conlog *fy_conlog_new(struct fy_loop *loop, const int fds[2], uint64_t max, struct fy_err *e);
/* Keep output; written by the loop soon. Any thread. NULL: no log. */
void fy_conlog_put(struct fy_conlog *l, const uint8_t *buf, size_t len);
/* Write what waits. The loop's thread. */
void fy_conlog_flush(struct fy_conlog *l);
/* Flush and free. The loop's thread, when nobody puts any more. NULL is allowed. */
void fy_conlog_free(struct fy_conlog *l);

#endif
