// SPDX-License-Identifier: Apache-2.0
/* Private to hv/dev: messages of proto/state.proto to and from bytes. */
#ifndef FERRY_DEV_STATE_H
#define FERRY_DEV_STATE_H

#include <protobuf-c/protobuf-c.h>
#include <stdint.h>

#include "hv/base/err.h"

/* Serialise *msg into a fresh malloc'd buffer, the caller's. FY_ERESOURCE when memory is short. */
int fy_state_pack(const ProtobufCMessage *msg, uint8_t **buf, size_t *len, struct fy_err *e);

/* Parse `len` bytes as a message of `type`. NULL with FY_ECORRUPT naming `id` when they are none. Free with
 * protobuf_c_message_free_unpacked. */
ProtobufCMessage *fy_state_unpack(const ProtobufCMessageDescriptor *type, const char *id, const uint8_t *buf,
                                  size_t len, struct fy_err *e);

#endif
