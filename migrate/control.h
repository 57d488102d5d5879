// SPDX-License-Identifier: Apache-2.0
/* A job's control channel: records with structured bodies, both ways, and the peer's ERROR turned into ours.
 */
#ifndef FERRY_MIGRATE_CONTROL_H
#define FERRY_MIGRATE_CONTROL_H

#include "migrate/chan.h"
#include "migrate/stream.h"

struct fy_control {
    struct fy_chan *chan; /* NULL: not connected */
    struct fy_flow out, in;
    uint8_t *buf;   /* body of the last record read; FY_RECORD_BODY_MAX */
    char peer[128]; /* the other host's pinned name */
};

/* Allocate the buffer. The channel is put in by its owner; fy_control_release frees both. */
int fy_control_init(struct fy_control *c, struct fy_err *e);
void fy_control_release(struct fy_control *c);

/* Read the next record into buf. An ERROR record becomes *e with its code, the peer's name in front. want 0:
 * any type. */
int fy_control_read(struct fy_control *c, uint16_t want, struct fy_record_header *h, struct fy_err *e);

/* Send one message and flush. */
int fy_control_send(struct fy_control *c, uint16_t type, const ProtobufCMessage *m, struct fy_err *e);

/* Say why this side gives up, as far as the peer still listens. */
void fy_control_send_error(struct fy_control *c, const struct fy_err *why);

#endif
