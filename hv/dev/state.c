// SPDX-License-Identifier: Apache-2.0
#include "hv/dev/state.h"

#include <stdlib.h>

int fy_state_pack(const ProtobufCMessage *msg, uint8_t **buf, size_t *len, struct fy_err *e)
{
    size_t size = protobuf_c_message_get_packed_size(msg);
    uint8_t *out = malloc(size ? size : 1);
    if (!out)
        return fy_fail(e, FY_ERESOURCE, "no memory for %zu bytes of device state", size);
    *len = protobuf_c_message_pack(msg, out);
    *buf = out;
    return 0;
}

ProtobufCMessage *fy_state_unpack(const ProtobufCMessageDescriptor *type, const char *id, const uint8_t *buf,
                                  size_t len, struct fy_err *e)
{
    ProtobufCMessage *msg = protobuf_c_message_unpack(type, NULL, len, buf);
    if (!msg)
        fy_fail(e, FY_ECORRUPT, "%s: %zu bytes are no %s message", id, len, type->name);
    return msg;
}
