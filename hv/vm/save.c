// SPDX-License-Identifier: Apache-2.0
/* The whole state of a machine but its memory, as a StateFile (docs/spec/state.md). */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/clock.h"
#include "hv/vm/internal.h"

struct parts {
    Ferry__StateFile file;
    size_t room;
};

static int add_part(struct parts *p, const char *id, uint32_t version, uint8_t *body, size_t len,
                    struct fy_err *e)
{
    Ferry__StatePart *part = malloc(sizeof *part);
    char *name = strdup(id);
    if (!part || !name || p->file.n_parts == p->room) {
        free(part);
        free(name);
        free(body);
        return fy_fail(e, FY_ERESOURCE, "no memory for the state");
    }
    ferry__state_part__init(part);
    part->id = name;
    part->version = version;
    part->body.data = body;
    part->body.len = len;
    p->file.parts[p->file.n_parts++] = part;
    return 0;
}

static int add_message(struct parts *p, const char *id, const ProtobufCMessage *msg, struct fy_err *e)
{
    size_t len = protobuf_c_message_get_packed_size(msg);
    uint8_t *buf = malloc(len ? len : 1);
    if (!buf)
        return fy_fail(e, FY_ERESOURCE, "no memory for the state");
    protobuf_c_message_pack(msg, buf);
    return add_part(p, id, 1, buf, len, e);
}

static int add_icount(struct fy_machine *m, struct parts *p, struct fy_err *e)
{
    Ferry__Icount i = FERRY__ICOUNT__INIT;
    if (!m->engine->icount)
        return 0;
    m->engine->icount->save(m->engine, &i);
    return add_message(p, "icount", &i.base, e);
}

static int add_vcpus(struct fy_machine *m, struct parts *p, struct fy_err *e)
{
    Ferry__Vcpu *v[FY_VCPUS_LIMIT];
    uint64_t tsc[FY_VCPUS_LIMIT] = {0};
    unsigned n = 0;
    int r = 0;
    /* The clocks last of all that takes time: what is read after them would count as downtime twice. */
    for (; r == 0 && n < m->vcpus; n++) {
        v[n] = m->engine->ops->vcpu_save(m->engine, n, e);
        if (!v[n]) {
            r = -1;
            break;
        }
    }
    Ferry__Clock clock = FERRY__CLOCK__INIT;
    if (r == 0)
        r = m->engine->ops->clock_save(m->engine, &clock, tsc, e);
    clock.device_ns = fy_machine_guest_ns(m);
    if (r == 0)
        r = add_message(p, "clock", &clock.base, e);
    for (unsigned i = 0; i < n; i++) {
        char id[16];
        snprintf(id, sizeof id, "vcpu%u", i);
        v[i]->tsc = tsc[i];
        if (r == 0)
            r = add_message(p, id, &v[i]->base, e);
        ferry__vcpu__free_unpacked(v[i], NULL);
    }
    return r;
}

static int add_chips(struct fy_machine *m, struct parts *p, struct fy_err *e)
{
    Ferry__IrqChips *chips = NULL;
    Ferry__Pit *pit = NULL;
    if (m->engine->ops->chips_save(m->engine, &chips, &pit, e) < 0)
        return -1;
    int r = add_message(p, "irqchip", &chips->base, e);
    if (r == 0)
        r = add_message(p, "pit", &pit->base, e);
    ferry__irq_chips__free_unpacked(chips, NULL);
    ferry__pit__free_unpacked(pit, NULL);
    for (unsigned i = 0; r == 0 && i < m->device_count; i++) {
        struct fy_device *d = &m->devices[i];
        uint8_t *buf = NULL;
        size_t len = 0;
        r = d->ops->save(d->dev, &buf, &len, e);
        if (r == 0)
            r = add_part(p, d->id, d->ops->version, buf, len, e);
        else
            fy_fail_prefix(e, "saving %s", d->id);
    }
    return r;
}

int fy_machine_save(struct fy_machine *m, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct parts p = {.room = m->vcpus + FY_DEVICES_MAX + 8};
    if (fy_machine_disks_quiet(m, e) < 0)
        return -1;
    ferry__state_file__init(&p.file);
    p.file.revision = m->desc->revision;
    p.file.parts = calloc(p.room, sizeof *p.file.parts);
    if (!p.file.parts)
        return fy_fail(e, FY_ERESOURCE, "no memory for the state");
    int r = add_vcpus(m, &p, e);
    if (r == 0)
        r = add_chips(m, &p, e);
    if (r == 0)
        r = add_icount(m, &p, e);
    if (r == 0) {
        *len = ferry__state_file__get_packed_size(&p.file);
        *buf = malloc(*len);
        if (*buf)
            ferry__state_file__pack(&p.file, *buf);
        else
            r = fy_fail(e, FY_ERESOURCE, "no memory for the state");
    }
    for (size_t i = 0; i < p.file.n_parts; i++)
        ferry__state_part__free_unpacked(p.file.parts[i], NULL);
    free(p.file.parts);
    return r;
}
