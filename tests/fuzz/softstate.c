// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/softstate.h"

#include <string.h>

#include "hv/cpu/soft/state.h"
#include "hv/cpu/state.h"
#include "proto/state.pb-c.h"
#include "proto/wire.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"

#define LAPIC_TMCCT 0x390

struct softstate {
    ProtobufCMessage *part[PARTS]; /* NULL: the machine has none */
    uint64_t tsc[FY_VCPUS_LIMIT];
};

/* Fill *s, to be freed with free_state. */
static void save(struct soft_vm *vm, struct softstate *s)
{
    struct fy_err e;
    struct fy_engine *en = &vm->base;
    memset(s, 0, sizeof *s);
    Ferry__Clock *clock = malloc(sizeof *clock);
    MUST(clock);
    ferry__clock__init(clock);
    s->part[PART_CLOCK] = &clock->base;
    for (unsigned i = 0; i < vm->vcpus; i++) {
        Ferry__Vcpu *v = soft_vcpu_save(en, i, &e);
        MUST(v);
        s->part[PART_VCPU + i] = &v->base;
    }
    Ferry__IrqChips *chips;
    Ferry__Pit *pit;
    MUST(soft_chips_save(en, &chips, &pit, &e) == 0);
    s->part[PART_IRQCHIP] = &chips->base;
    s->part[PART_PIT] = &pit->base;
    MUST(soft_clock_save(en, clock, s->tsc, &e) == 0);
    if (!en->icount)
        return;
    Ferry__Icount *icount = malloc(sizeof *icount);
    MUST(icount);
    ferry__icount__init(icount);
    en->icount->save(en, icount);
    s->part[PART_ICOUNT] = &icount->base;
}

/* In a machine's order. 0: taken; -1 with *e: refused, perhaps with some of it loaded. */
static int load(struct soft_vm *vm, const struct softstate *s, struct fy_err *e)
{
    struct fy_engine *en = &vm->base;
    uint64_t elapsed;
    char warning[FY_ERR_TEXT];
    Ferry__IrqChips *chips = (Ferry__IrqChips *)s->part[PART_IRQCHIP];
    Ferry__Pit *pit = (Ferry__Pit *)s->part[PART_PIT];
    for (unsigned i = 0; i < vm->vcpus; i++)
        if (fy_vcpu_validate((Ferry__Vcpu *)s->part[PART_VCPU + i], i, vm->policy, e) < 0)
            return -1;
    if (fy_irqchips_validate(chips, e) < 0 || fy_pit_validate(pit, e) < 0)
        return -1;
    if (en->icount && en->icount->load(en, (Ferry__Icount *)s->part[PART_ICOUNT], e) < 0)
        return -1;
    if (soft_clock_load(en, (Ferry__Clock *)s->part[PART_CLOCK], s->tsc, &elapsed, warning, e) < 0)
        return -1;
    for (unsigned i = 0; i < vm->vcpus; i++)
        if (soft_vcpu_load(en, i, (Ferry__Vcpu *)s->part[PART_VCPU + i], e) < 0)
            return -1;
    return soft_chips_load(en, chips, pit, e);
}

static void free_state(struct softstate *s)
{
    for (unsigned i = 0; i < PARTS; i++)
        if (s->part[i])
            protobuf_c_message_free_unpacked(s->part[i], NULL);
}

/* *m, of that part's type, takes its place; it is s's then. */
static void put(struct softstate *s, enum softstate_part part, ProtobufCMessage *m)
{
    MUST(s->part[part]);
    protobuf_c_message_free_unpacked(s->part[part], NULL);
    s->part[part] = m;
    if (part == PART_CLOCK)
        s->tsc[0] = ((Ferry__Clock *)m)->tsc;
}

static uint8_t *pack(const ProtobufCMessage *m, size_t *len)
{
    *len = protobuf_c_message_get_packed_size(m);
    uint8_t *buf = malloc(*len + 1);
    MUST(buf && protobuf_c_message_pack(m, buf) == *len);
    return buf;
}

static void offer(const struct softstate *s, unsigned kind, enum softstate_part part)
{
    size_t len;
    uint8_t *packed = pack(s->part[part], &len);
    fuzz_load_offer(kind, packed, len);
    free(packed);
}

bool softstate_load_input(struct soft_vm *vm, unsigned kind, enum softstate_part part, const uint8_t **data,
                          size_t *size)
{
    struct softstate s;
    struct fy_err e = {0};
    if (*size < 2)
        return false;
    size_t len = (*data)[0] | (size_t)(*data)[1] << 8;
    len = len < *size - 2 ? len : *size - 2;
    ProtobufCMessage *m = protobuf_c_message_unpack(fuzz_loads.kind[kind].type, NULL, len, *data + 2);
    save(vm, &s);
    size_t known;
    if (!fuzz_load_known(kind, 0, &known))
        offer(&s, kind, part);
    if (!m) {
        free_state(&s);
        return false;
    }
    put(&s, part, m);
    int r = load(vm, &s, &e);
    fuzz_load_tried(kind, *data + 2, len, r == 0);
    free_state(&s);
    if (r < 0)
        MUST((e.code == FY_ECORRUPT || e.code == FY_EUNSUPPORTED) && e.text[0]);
    *data += 2 + len;
    *size -= 2 + len;
    return r == 0;
}

/* For protoc --decode, after xxd -r -p. */
static void print(const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        fprintf(stderr, "%02x", p[i]);
    fputc('\n', stderr);
}

/* A LAPIC timer whose count is saved as 0 runs out once more after a load (soft_lapic_load says why). */
static void forget_expired(const struct softstate *a, struct softstate *b)
{
    for (unsigned i = PART_VCPU; i < PARTS && a->part[i]; i++) {
        const Ferry__Vcpu *was = (Ferry__Vcpu *)a->part[i];
        const Ferry__Vcpu *is = (Ferry__Vcpu *)b->part[i];
        if (!fy_get32(was->lapic.data + LAPIC_TMCCT))
            fy_put32(is->lapic.data + LAPIC_TMCCT, 0);
    }
}

static void same(const ProtobufCMessage *a, const ProtobufCMessage *b)
{
    size_t alen, blen;
    uint8_t *x = pack(a, &alen), *y = pack(b, &blen);
    bool equal = alen == blen && !memcmp(x, y, alen);
    if (!equal) {
        fprintf(stderr, "%s is saved otherwise after a load:\n", a->descriptor->name);
        print(x, alen);
        print(y, blen);
    }
    MUST(equal);
    free(x);
    free(y);
}

/* A state is refused whose clocks are out of reach of any guest, and they go on. */
static bool too_late(const struct softstate *s)
{
    const Ferry__Icount *icount = (Ferry__Icount *)s->part[PART_ICOUNT];
    return ((Ferry__Clock *)s->part[PART_CLOCK])->guest_ns > FY_ICOUNT_MAX / 2 ||
           (icount && (icount->count > FY_ICOUNT_MAX / 2 || icount->warp_ns > FY_ICOUNT_MAX / 2));
}

void softstate_same_after_load(struct soft_vm *vm, unsigned kind, enum softstate_part part)
{
    struct softstate a, b;
    struct fy_err e;
    save(vm, &a);
    if (too_late(&a)) {
        free_state(&a);
        return;
    }
    if (load(vm, &a, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        MUST(!"the engine refuses its own state");
    }
    save(vm, &b);
    forget_expired(&a, &b);
    for (unsigned i = 0; i < PARTS; i++)
        if (a.part[i])
            same(a.part[i], b.part[i]);
    offer(&a, kind, part);
    free_state(&a);
    free_state(&b);
}
