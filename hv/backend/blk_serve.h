// SPDX-License-Identifier: Apache-2.0
/* A guest's requests, carried out over a connection that may break and come again. Each is cut into pieces of
 * one NBD command, one after the other; many requests are in flight. One thread. */
#ifndef FERRY_BACKEND_BLK_SERVE_H
#define FERRY_BACKEND_BLK_SERVE_H

#include "hv/backend/blk_nbd.h"
#include "hv/backend/blk_wire.h"

struct fy_serve;

/* done: request id is over; err: 0 or an errno. */
struct fy_serve *fy_serve_new(void (*done)(void *arg, uint32_t id, int err), void *arg, struct fy_err *e);
/* After fy_serve_connection(NULL). NULL is allowed. */
void fy_serve_free(struct fy_serve *s);
/* Map guest memory (sealed against shrinking; fd stays the caller's) with its areas of RAM. Once. */
int fy_serve_memory(struct fy_serve *s, int fd, const struct fy_blkw_seg *areas, unsigned count,
                    struct fy_err *e);
/* The disk's size, before the first request. */
void fy_serve_size(struct fy_serve *s, uint64_t bytes);

/* A request, checked here. It waits while there is no connection. FY_ECORRUPT: who sent it is not ferry-hv as
 * it should be. */
int fy_serve_request(struct fy_serve *s, const struct fy_blkw_request *r, struct fy_err *e);
/* The connection to use from now on; NULL: none, what was begun is begun again with the next. The old one,
 * which stays the caller's, must not call back any more (be closed). */
void fy_serve_connection(struct fy_serve *s, struct fy_nbd *n);
/* Go on with what has come back. False: the connection is of no use any more. */
bool fy_serve_turn(struct fy_serve *s);
/* All that is not done fails with err; with 0 it is forgotten. After fy_serve_connection(NULL). */
void fy_serve_fail(struct fy_serve *s, int err);
/* Requests that are not done. */
unsigned fy_serve_open(const struct fy_serve *s);

#endif
