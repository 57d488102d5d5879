// SPDX-License-Identifier: Apache-2.0
/* Loading a StateFile: everything is parsed and checked before anything is set. The order in which it is set
 * is in docs/spec/state.md. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/cpu/state.h"
#include "hv/vm/fwkernel.h"
#include "hv/vm/internal.h"
#include "proto/wire.h"

struct scratch {
    Ferry__StateFile *file;
    Ferry__Vcpu *vcpus[FY_VCPUS_LIMIT];
    uint64_t tsc[FY_VCPUS_LIMIT];
    Ferry__IrqChips *chips;
    Ferry__Pit *pit;
    Ferry__Clock *clock;
    Ferry__Icount *icount;
    const Ferry__StatePart *devices[FY_DEVICES_MAX];
};

static void scratch_free(struct scratch *s)
{
    for (unsigned i = 0; i < FY_VCPUS_LIMIT; i++)
        if (s->vcpus[i])
            ferry__vcpu__free_unpacked(s->vcpus[i], NULL);
    if (s->chips)
        ferry__irq_chips__free_unpacked(s->chips, NULL);
    if (s->pit)
        ferry__pit__free_unpacked(s->pit, NULL);
    if (s->clock)
        ferry__clock__free_unpacked(s->clock, NULL);
    if (s->icount)
        ferry__icount__free_unpacked(s->icount, NULL);
    if (s->file)
        ferry__state_file__free_unpacked(s->file, NULL);
}

static int twice(const char *id, struct fy_err *e)
{
    return fy_fail(e, FY_ECORRUPT, "state: part %s twice", id);
}

static int unreadable(const char *id, struct fy_err *e)
{
    return fy_fail(e, FY_ECORRUPT, "state: part %s does not parse", id);
}

static int parse_vcpu(struct fy_machine *m, struct scratch *s, unsigned i, const Ferry__StatePart *p,
                      struct fy_err *e)
{
    if (s->vcpus[i])
        return twice(p->id, e);
    s->vcpus[i] = ferry__vcpu__unpack(NULL, p->body.len, p->body.data);
    if (!s->vcpus[i])
        return unreadable(p->id, e);
    if (fy_vcpu_validate(s->vcpus[i], i, m->desc->cpu, e) < 0)
        return fy_fail_prefix(e, "%s", p->id);
    s->tsc[i] = s->vcpus[i]->tsc;
    return 0;
}

/* The number in "vcpu12", or -1. */
static int vcpu_number(const char *id)
{
    char text[16];
    if (strncmp(id, "vcpu", 4) != 0)
        return -1;
    unsigned long n = strtoul(id + 4, NULL, 10);
    if (n >= FY_VCPUS_LIMIT)
        return -1;
    snprintf(text, sizeof text, "vcpu%lu", n);
    return strcmp(text, id) != 0 ? -1 : (int)n;
}

static int parse_platform(struct fy_machine *m, struct scratch *s, const Ferry__StatePart *p, bool *known,
                          struct fy_err *e)
{
    *known = true;
    if (!strcmp(p->id, "irqchip")) {
        if (s->chips)
            return twice(p->id, e);
        s->chips = ferry__irq_chips__unpack(NULL, p->body.len, p->body.data);
        return s->chips ? fy_irqchips_validate(s->chips, e) : unreadable(p->id, e);
    }
    if (!strcmp(p->id, "pit")) {
        if (s->pit)
            return twice(p->id, e);
        s->pit = ferry__pit__unpack(NULL, p->body.len, p->body.data);
        return s->pit ? fy_pit_validate(s->pit, e) : unreadable(p->id, e);
    }
    if (!strcmp(p->id, "clock")) {
        if (s->clock)
            return twice(p->id, e);
        s->clock = ferry__clock__unpack(NULL, p->body.len, p->body.data);
        if (!s->clock)
            return unreadable(p->id, e);
        /* Devices add to it and subtract from it. */
        return s->clock->device_ns > INT64_MAX
                   ? fy_fail(e, FY_ECORRUPT, "state: the devices' clock shows %" PRIu64 " ns",
                             s->clock->device_ns)
                   : 0;
    }
    if (!strcmp(p->id, "icount") && m->engine->icount) {
        if (s->icount)
            return twice(p->id, e);
        s->icount = ferry__icount__unpack(NULL, p->body.len, p->body.data);
        return s->icount ? 0 : unreadable(p->id, e);
    }
    *known = false;
    return 0;
}

static int parse_part(struct fy_machine *m, struct scratch *s, const Ferry__StatePart *p, struct fy_err *e)
{
    int n = vcpu_number(p->id);
    bool known = false;
    bool engine = n >= 0 && (unsigned)n < m->vcpus;
    if (engine || !strcmp(p->id, "irqchip") || !strcmp(p->id, "pit") || !strcmp(p->id, "clock") ||
        (!strcmp(p->id, "icount") && m->engine->icount))
        if (p->version != 1)
            return fy_fail(e, FY_EUNSUPPORTED, "state: part %s has version %u, 1 is known here", p->id,
                           p->version);
    if (engine)
        return parse_vcpu(m, s, (unsigned)n, p, e);
    if (parse_platform(m, s, p, &known, e) < 0)
        return -1;
    if (known)
        return 0;
    struct fy_device *d = fy_machine_device(m, p->id);
    if (!d) {
        if (!p->optional)
            return fy_fail(e, FY_EUNSUPPORTED, "state: part %s is not known here", p->id);
        fy_info("state: optional part %s is skipped", p->id);
        return 0;
    }
    if (p->version > d->ops->version)
        return fy_fail(e, FY_EUNSUPPORTED, "state: part %s has version %u, %u is known here", p->id,
                       p->version, d->ops->version);
    if (s->devices[d - m->devices])
        return twice(p->id, e);
    s->devices[d - m->devices] = p;
    return 0;
}

static int parse(struct fy_machine *m, struct scratch *s, const uint8_t *buf, size_t len, struct fy_err *e)
{
    if (len > FY_STATE_MAX)
        return fy_fail(e, FY_ECORRUPT, "state: %zu bytes is over the limit", len);
    s->file = ferry__state_file__unpack(NULL, len, buf);
    if (!s->file)
        return fy_fail(e, FY_ECORRUPT, "state: does not parse");
    if (s->file->revision != m->desc->revision)
        return fy_fail(e, FY_ECORRUPT, "state: of machine revision %u, the machine has %u", s->file->revision,
                       m->desc->revision);
    for (size_t i = 0; i < s->file->n_parts; i++)
        if (parse_part(m, s, s->file->parts[i], e) < 0)
            return -1;
    for (unsigned i = 0; i < m->vcpus; i++)
        if (!s->vcpus[i])
            return fy_fail(e, FY_ECORRUPT, "state: vcpu%u is missing", i);
    if (!s->chips || !s->pit || !s->clock)
        return fy_fail(e, FY_ECORRUPT, "state: %s is missing",
                       !s->chips ? "irqchip"
                       : !s->pit ? "pit"
                                 : "clock");
    if (m->engine->icount && !s->icount)
        return fy_fail(e, FY_ECORRUPT, "state: icount is missing");
    for (unsigned i = 0; i < m->device_count; i++)
        if (!s->devices[i])
            return fy_fail(e, FY_ECORRUPT, "state: %s is missing", m->devices[i].id);
    return 0;
}

static int commit(struct fy_machine *m, struct scratch *s, char *warning, struct fy_err *e)
{
    const struct fy_engine_ops *ops = m->engine->ops;
    uint64_t elapsed = 0;
    if (s->icount && m->engine->icount->load(m->engine, s->icount, e) < 0)
        return -1;
    if (ops->clock_load(m->engine, s->clock, s->tsc, &elapsed, warning, e) < 0)
        return -1;
    /* The devices' clock stands at its saved value plus what has passed, and goes on from there. */
    uint64_t now = fy_now_ns(), device = s->clock->device_ns + elapsed;
    __atomic_store_n(&m->clock_offset, (int64_t)(device - now), __ATOMIC_RELAXED);
    __atomic_store_n(&m->clock_frozen_ns, device, __ATOMIC_RELAXED);
    for (unsigned i = 0; i < m->vcpus; i++)
        if (ops->vcpu_load(m->engine, i, s->vcpus[i], e) < 0)
            return -1;
    if (ops->chips_load(m->engine, s->chips, s->pit, e) < 0)
        return -1;
    /* Devices last: they raise interrupt lines. */
    for (unsigned i = 0; i < m->device_count; i++) {
        struct fy_device *d = &m->devices[i];
        if (d->ops->load(d->dev, s->devices[i]->body.data, s->devices[i]->body.len, e) < 0)
            return fy_fail_prefix(e, "loading %s", d->id);
    }
    return 0;
}

int fy_machine_load(struct fy_machine *m, const uint8_t *buf, size_t len, char *warning, struct fy_err *e)
{
    struct scratch s;
    struct fy_err local;
    memset(&s, 0, sizeof s);
    warning[0] = 0;
    int r = parse(m, &s, buf, len, &local);
    if (r == 0)
        r = commit(m, &s, warning, &local);
    /* A guest that came in the middle of its boot may have read a part of them. */
    if (r == 0 && m->desc->firmware && m->desc->images)
        r = fy_fwkernel_set(m, &local);
    scratch_free(&s);
    if (r < 0 && e)
        *e = local;
    return r;
}
