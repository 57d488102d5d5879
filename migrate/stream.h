// SPDX-License-Identifier: Apache-2.0
/* Framing: records on a channel (docs/spec/stream.md, "Records"). */
#ifndef FERRY_MIGRATE_STREAM_H
#define FERRY_MIGRATE_STREAM_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "migrate/chan.h"
#include "proto/wire.h"

/* One direction of one channel: sequence number and running digest. Zero-initialise to start. */
struct fy_flow {
    uint64_t records;
    uint64_t digest; /* FNV-1a 64 over every record's header, which holds the body's CRC */
    uint32_t generation;
};

struct fy_record_header {
    uint16_t type;
    uint16_t flags;
    uint32_t length; /* of the body */
    uint32_t crc;
    uint32_t generation;
    uint64_t sequence;
};

/* Fill the FY_RECORD_HEADER bytes before `body` (the caller's buffer has that room in front) and count the
 * record in flow. Pure but for flow. */
void fy_record_seal(struct fy_flow *flow, uint16_t type, uint16_t flags, uint8_t *body, uint32_t length);

/* The same for a SEALED record of `length` bytes, of which `body` holds only the first `fixed`: the checksum
 * stands for those. */
void fy_record_seal_fixed(struct fy_flow *flow, uint16_t type, uint8_t *body, uint32_t fixed,
                          uint32_t length);

/* Check a header of a peer: limits, reserved bits, sequence, generation. The body's CRC is checked by
 * fy_record_check. FY_ECORRUPT says what and at which record. */
int fy_record_parse(const struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER],
                    struct fy_record_header *h, struct fy_err *e);
int fy_record_check(struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER], const uint8_t *body,
                    const struct fy_record_header *h, struct fy_err *e);

/* Whether this build knows a record type. */
bool fy_record_known(uint16_t type);

/* Read one record; unknown optional ones are skipped, unknown others are FY_ECORRUPT. *body is the buffer's
 * own memory (buf, at least FY_RECORD_BODY_MAX bytes). */
int fy_record_read(struct fy_chan *c, struct fy_flow *flow, uint8_t *buf, struct fy_record_header *h,
                   struct fy_err *e);

/* The same in steps, for a body that is read to where it belongs: header (read and parsed), any number of
 * pieces of the body (*crc runs along; crc NULL: the piece does not count), end (checks, counts). An unknown
 * type is the caller's matter. */
int fy_record_begin(struct fy_chan *c, const struct fy_flow *flow, uint8_t raw[FY_RECORD_HEADER],
                    struct fy_record_header *h, uint32_t *crc, struct fy_err *e);
int fy_record_piece(struct fy_chan *c, void *to, uint32_t len, uint32_t *crc, struct fy_err *e);
int fy_record_end(struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER], const struct fy_record_header *h,
                  uint32_t crc, struct fy_err *e);

/* Write a protobuf message as one record and flush. */
int fy_record_send_proto(struct fy_chan *c, struct fy_flow *flow, uint16_t type, const ProtobufCMessage *m,
                         struct fy_err *e);

/* Write a record whose body is copied from buf; flush as asked. */
int fy_record_send(struct fy_chan *c, struct fy_flow *flow, uint16_t type, const void *buf, uint32_t len,
                   bool flush, struct fy_err *e);

#endif
