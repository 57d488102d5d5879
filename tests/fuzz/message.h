// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_TESTS_FUZZ_MESSAGE_H
#define FERRY_TESTS_FUZZ_MESSAGE_H

#include <protobuf-c/protobuf-c.h>
#include <stdlib.h>

/* Drop the unknown fields of a message that was unpacked with the default allocator, and of all inside it.
 * Nothing of ours packs them again, and protobuf-c reads some (tag 0, written with two bytes) that it refuses
 * once it has packed them itself. */
static inline void fuzz_forget_unknown(ProtobufCMessage *m)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;
    for (unsigned i = 0; i < m->n_unknown_fields; i++)
        free(m->unknown_fields[i].data);
    free(m->unknown_fields);
    m->unknown_fields = NULL;
    m->n_unknown_fields = 0;
    for (unsigned i = 0; i < d->n_fields; i++) {
        const ProtobufCFieldDescriptor *f = &d->fields[i];
        char *at = (char *)m + f->offset;
        if (f->type != PROTOBUF_C_TYPE_MESSAGE)
            continue;
        if (f->label == PROTOBUF_C_LABEL_REPEATED) {
            size_t n = *(size_t *)((char *)m + f->quantifier_offset);
            for (size_t k = 0; k < n; k++)
                fuzz_forget_unknown((*(ProtobufCMessage ***)at)[k]);
        } else if (*(ProtobufCMessage **)at && !(f->flags & PROTOBUF_C_FIELD_FLAG_ONEOF)) {
            fuzz_forget_unknown(*(ProtobufCMessage **)at);
        }
    }
}

#endif
