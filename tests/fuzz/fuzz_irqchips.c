// SPDX-License-Identifier: Apache-2.0
/* State of the interrupt chips, the PIT and the clock from outside. The first byte says which. */
#include <string.h>

#include "hv/cpu/state.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/message.h"

static int validate(const ProtobufCMessage *m, struct fy_err *e)
{
    if (m->descriptor == &ferry__irq_chips__descriptor)
        return fy_irqchips_validate((const Ferry__IrqChips *)m, e);
    if (m->descriptor == &ferry__pit__descriptor)
        return fy_pit_validate((const Ferry__Pit *)m, e);
    return 0; /* every clock is one; the engine refuses what it cannot set */
}

static void within_ranges(const ProtobufCMessage *m)
{
    if (m->descriptor == &ferry__irq_chips__descriptor) {
        const Ferry__IrqChips *c = (const Ferry__IrqChips *)m;
        const Ferry__PicChip *pics[2] = {c->master, c->slave};
        MUST(c->n_ioapic_redirection == 24 && c->ioapic_id < 16 && c->ioapic_select < 256);
        for (int i = 0; i < 2; i++)
            MUST(pics[i] && (pics[i]->irr | pics[i]->imr | pics[i]->isr | pics[i]->irq_base) < 256);
    } else if (m->descriptor == &ferry__pit__descriptor) {
        const Ferry__Pit *p = (const Ferry__Pit *)m;
        MUST(p->n_channels == 3);
        for (int i = 0; i < 3; i++)
            MUST(p->channels[i]->count - 1 < 65536 && p->channels[i]->loaded_ago_ns <= INT64_MAX);
    }
}

const struct fuzz_loads fuzz_loads = {.head = 1,
                                      .kinds = 3,
                                      .kind = {{"irqchip", &ferry__irq_chips__descriptor, NULL},
                                               {"pit", &ferry__pit__descriptor, NULL},
                                               {"clock", &ferry__clock__descriptor, NULL}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_err e = {0};
    if (!size)
        return 0;
    unsigned number = fuzz_kind(data[0]);
    const ProtobufCMessageDescriptor *kind = fuzz_loads.kind[number].type;
    ProtobufCMessage *m = protobuf_c_message_unpack(kind, NULL, size - 1, data + 1);
    if (!m)
        return 0;
    int r = validate(m, &e);
    fuzz_load_tried(number, data + 1, size - 1, r == 0);
    if (r < 0) {
        MUST(e.code == FY_ECORRUPT && e.text[0]);
    } else {
        within_ranges(m);
        fuzz_forget_unknown(m);
        size_t len = protobuf_c_message_get_packed_size(m);
        uint8_t *once = malloc(len + 1);
        uint8_t *twice = malloc(len + 1);
        MUST(once && twice && protobuf_c_message_pack(m, once) == len);
        ProtobufCMessage *again = protobuf_c_message_unpack(kind, NULL, len, once);
        MUST(again && validate(again, &e) == 0 && protobuf_c_message_get_packed_size(again) == len);
        protobuf_c_message_pack(again, twice);
        MUST(!memcmp(once, twice, len));
        protobuf_c_message_free_unpacked(again, NULL);
        free(once);
        free(twice);
    }
    protobuf_c_message_free_unpacked(m, NULL);
    return 0;
}
