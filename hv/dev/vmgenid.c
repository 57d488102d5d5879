// SPDX-License-Identifier: Apache-2.0
/* VM generation ID (Microsoft, "Virtual Machine Generation ID"): 128 random bits that stay as they are for as
 * long as the guest is one and the same, over resets and moves, and are others in each copy of it. Read-only
 * registers, whose address \_SB.VGEN.ADDR tells; a change is said by a general-purpose event, on which
 * vmgen.asl's handler sends Notify (0x80). */
#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "hv/base/checked.h"
#include "hv/dev/chips.h"
#include "hv/dev/platform.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

struct vmgenid {
    pthread_mutex_t lock;
    uint8_t id[FY_VMGENID_BYTES];
};

static uint64_t vmgenid_read(void *dev, uint64_t offset, unsigned size)
{
    struct vmgenid *g = dev;
    uint64_t v = 0;
    pthread_mutex_lock(&g->lock);
    for (unsigned i = 0; i < size && offset + i < sizeof g->id; i++)
        v |= (uint64_t)g->id[offset + i] << (8 * i);
    pthread_mutex_unlock(&g->lock);
    return v;
}

static void vmgenid_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev;
    (void)offset;
    (void)size;
    (void)value;
}

static int fresh(uint8_t *id, struct fy_err *e)
{
    if (getrandom(id, FY_VMGENID_BYTES, 0) != FY_VMGENID_BYTES)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "no random bytes for a generation ID");
    return 0;
}

int fy_vmgenid_change(struct fy_device *vmgenid, struct fy_device *pm, struct fy_err *e)
{
    struct vmgenid *g = vmgenid->dev;
    uint8_t id[FY_VMGENID_BYTES];
    if (fresh(id, e) < 0)
        return -1;
    pthread_mutex_lock(&g->lock);
    memcpy(g->id, id, sizeof id);
    pthread_mutex_unlock(&g->lock);
    fy_pm_event(pm, FY_GPE_VMGENID);
    return 0;
}

void fy_vmgenid_get(struct fy_device *vmgenid, uint8_t id[FY_VMGENID_BYTES])
{
    struct vmgenid *g = vmgenid->dev;
    pthread_mutex_lock(&g->lock);
    memcpy(id, g->id, sizeof g->id);
    pthread_mutex_unlock(&g->lock);
}

static int vmgenid_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct vmgenid *g = dev;
    Ferry__GenerationId m = FERRY__GENERATION_ID__INIT;
    m.id = (ProtobufCBinaryData){.len = sizeof g->id, .data = g->id};
    pthread_mutex_lock(&g->lock);
    int r = fy_state_pack(&m.base, buf, len, e);
    pthread_mutex_unlock(&g->lock);
    return r;
}

static int vmgenid_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct vmgenid *g = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__generation_id__descriptor, "vmgenid", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__GenerationId *m = (const Ferry__GenerationId *)msg;
    int r = 0;
    if (m->id.len != sizeof g->id) {
        r = fy_fail(e, FY_ECORRUPT, "vmgenid: an ID of %zu bytes", m->id.len);
    } else {
        pthread_mutex_lock(&g->lock);
        memcpy(g->id, m->id.data, sizeof g->id);
        pthread_mutex_unlock(&g->lock);
    }
    protobuf_c_message_free_unpacked(msg, NULL);
    return r;
}

/* The same guest, started again. */
static void vmgenid_reset(void *dev)
{
    (void)dev;
}

static void vmgenid_free(void *dev)
{
    struct vmgenid *g = dev;
    pthread_mutex_destroy(&g->lock);
    free(g);
}

static const struct fy_dev_ops vmgenid_ops = {
    .type = "vmgenid",
    .version = 1,
    .save = vmgenid_save,
    .load = vmgenid_load,
    .reset = vmgenid_reset,
    .free = vmgenid_free,
};

int fy_vmgenid_new(struct fy_bus *bus, const uint8_t *id, struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = vmgenid_read, .write = vmgenid_write};
    struct vmgenid *g = calloc(1, sizeof *g);
    if (!g)
        return fy_fail(e, FY_ERESOURCE, "no memory for the generation ID");
    pthread_mutex_init(&g->lock, NULL);
    if (id)
        memcpy(g->id, id, sizeof g->id);
    if ((!id && fresh(g->id, e) < 0) ||
        fy_bus_add(bus, FY_SPACE_MMIO, FY_VMGENID_ADDRESS, FY_VMGENID_WINDOW, &io, g, e)) {
        vmgenid_free(g);
        return -1;
    }
    *out = (struct fy_device){.id = "vmgenid", .ops = &vmgenid_ops, .dev = g};
    return 0;
}
