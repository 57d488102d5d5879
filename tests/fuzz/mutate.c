// SPDX-License-Identifier: Apache-2.0
/* How the fuzzer changes an input of a target that loads state: mostly by fields of the state message, so
 * that it still parses, or by the operations behind a state that is known to be good; now and then as bytes.
 */
#include <string.h>

#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"

size_t LLVMFuzzerMutate(uint8_t *data, size_t size, size_t max);
size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed);

static uint64_t rng;
static unsigned kind;

static uint32_t random32(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return (uint32_t)(rng >> 16);
}

static uint32_t below(size_t n)
{
    return n ? random32() % (uint32_t)n : 0;
}

static uint64_t another(uint64_t v, unsigned bits)
{
    switch (below(6)) {
    case 0:
        return v ^ 1ull << below(bits);
    case 1:
        return below(17);
    case 2:
        return v + below(9) - 4;
    case 3:
        return (uint64_t)random32() << 32 | random32();
    case 4:
        return 1ull << below(bits);
    default:
        return (~0ull >> below(64)) - below(2);
    }
}

static void mutate_message(ProtobufCMessage *m);

static void mutate_bytes(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, ProtobufCBinaryData *b)
{
    const ProtobufCMessageDescriptor *type = fuzz_load_inside(m, f, kind);
    ProtobufCMessage *in = type ? protobuf_c_message_unpack(type, NULL, b->len, b->data) : NULL;
    uint8_t *data;
    if (in) {
        mutate_message(in);
        size_t len = protobuf_c_message_get_packed_size(in);
        data = malloc(len + 1);
        MUST(data && protobuf_c_message_pack(in, data) == len);
        protobuf_c_message_free_unpacked(in, NULL);
        free(b->data);
        *b = (ProtobufCBinaryData){len, data};
        return;
    }
    if (b->len && below(4)) {
        for (unsigned n = below(4) + 1; n; n--)
            b->data[below(b->len)] = (uint8_t)another(b->data[below(b->len)], 8);
        return;
    }
    size_t room = b->len * 2 + 16;
    data = malloc(room);
    MUST(data);
    if (b->len)
        memcpy(data, b->data, b->len);
    b->len = LLVMFuzzerMutate(data, b->len, room);
    free(b->data);
    b->data = data;
}

static void mutate_value(const ProtobufCMessage *m, const ProtobufCFieldDescriptor *f, void *at)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_INT32:
        *(uint32_t *)at = (uint32_t)another(*(uint32_t *)at, 32);
        break;
    case PROTOBUF_C_TYPE_UINT64:
    case PROTOBUF_C_TYPE_INT64:
        *(uint64_t *)at = another(*(uint64_t *)at, 64);
        break;
    case PROTOBUF_C_TYPE_BOOL:
        *(protobuf_c_boolean *)at = !*(protobuf_c_boolean *)at;
        break;
    case PROTOBUF_C_TYPE_BYTES:
        mutate_bytes(m, f, at);
        break;
    case PROTOBUF_C_TYPE_STRING: {
        char *s = *(char **)at;
        size_t len = s ? strlen(s) : 0;
        if (len && !below(16)) /* names: another one is mostly unknown */
            s[below(len)] ^= (char)(1 << below(7));
        break;
    }
    case PROTOBUF_C_TYPE_MESSAGE:
        if (*(ProtobufCMessage **)at)
            mutate_message(*(ProtobufCMessage **)at);
        break;
    default:
        MUST(!"a type of field that no state has");
    }
}

static size_t element(const ProtobufCFieldDescriptor *f)
{
    switch (f->type) {
    case PROTOBUF_C_TYPE_UINT32:
    case PROTOBUF_C_TYPE_INT32:
        return 4;
    case PROTOBUF_C_TYPE_BOOL:
        return sizeof(protobuf_c_boolean);
    case PROTOBUF_C_TYPE_BYTES:
        return sizeof(ProtobufCBinaryData);
    default:
        return 8;
    }
}

/* One field. A list is seldom cut: a state with a wrong number of something is refused. */
static void mutate_message(ProtobufCMessage *m)
{
    const ProtobufCMessageDescriptor *d = m->descriptor;
    if (!d->n_fields)
        return;
    const ProtobufCFieldDescriptor *f = &d->fields[below(d->n_fields)];
    char *at = (char *)m + f->offset;
    if (f->label != PROTOBUF_C_LABEL_REPEATED) {
        mutate_value(m, f, at);
        return;
    }
    size_t *n = (size_t *)((char *)m + f->quantifier_offset);
    if (!*n)
        return;
    if (f->type != PROTOBUF_C_TYPE_MESSAGE && f->type != PROTOBUF_C_TYPE_STRING && !below(64))
        --*n;
    else
        mutate_value(m, f, *(char **)at + below(*n) * element(f));
}

static uint8_t *another_state(const uint8_t *state, size_t len, unsigned fields, size_t *out)
{
    ProtobufCMessage *m = protobuf_c_message_unpack(fuzz_loads.kind[kind].type, NULL, len, state);
    if (!m)
        return NULL;
    while (fields--)
        mutate_message(m);
    *out = protobuf_c_message_get_packed_size(m);
    uint8_t *data = malloc(*out + 1);
    MUST(data);
    protobuf_c_message_pack(m, data);
    protobuf_c_message_free_unpacked(m, NULL);
    return data;
}

/* Where the state is in an input, and where the operations begin. */
static void find_state(const uint8_t *data, size_t size, size_t *at, size_t *end)
{
    *at = fuzz_loads.head + (fuzz_loads.counted ? 2 : 0);
    *end = size;
    if (fuzz_loads.counted) {
        size_t len = data[*at - 2] | (size_t)data[*at - 1] << 8;
        *end = len < size - *at ? *at + len : size;
    }
}

/* Put `state` in the place of what is from `at` to `end`. */
static size_t replace(uint8_t *data, size_t size, size_t max, size_t at, size_t end, const uint8_t *state,
                      size_t len)
{
    if (len > max - at || (fuzz_loads.counted && len > UINT16_MAX))
        return 0;
    size_t rest = size - end;
    if (rest > max - at - len)
        rest = max - at - len;
    memmove(data + at + len, data + end, rest);
    memcpy(data + at, state, len);
    if (fuzz_loads.counted) {
        data[at - 2] = (uint8_t)len;
        data[at - 1] = (uint8_t)(len >> 8);
    }
    return at + len + rest;
}

size_t LLVMFuzzerCustomMutator(uint8_t *data, size_t size, size_t max, unsigned seed)
{
    size_t at, end, known_len, len = 0;
    rng = (uint64_t)seed << 20 ^ 0x9e3779b97f4a7c15ull;
    random32();
    if (size < fuzz_loads.head + 2 || !below(16))
        return LLVMFuzzerMutate(data, size, max);
    if (fuzz_loads.head && !below(32))
        data[0] = (uint8_t)random32();
    kind = fuzz_loads.kinds > 1 ? fuzz_kind(data[0]) : 0;
    find_state(data, size, &at, &end);
    const uint8_t *known = fuzz_load_known(kind, random32(), &known_len);
    unsigned how = below(8);
    /* Only the operations, behind this state or a good one. */
    if (how < 4 && fuzz_loads.counted) {
        size_t r = known && below(4) ? replace(data, size, max, at, end, known, known_len) : 0;
        if (r) {
            size = r;
            end = at + known_len;
        }
        return end + LLVMFuzzerMutate(data + end, size - end, max - end);
    }
    uint8_t *state = known && how < 7
                         ? another_state(known, known_len, fuzz_loads.counted ? below(3) : 1, &len)
                         : another_state(data + at, end - at, 1 + below(3), &len);
    size_t r = state ? replace(data, size, max, at, end, state, len) : 0;
    free(state);
    return r ? r : LLVMFuzzerMutate(data, size, max);
}
