// SPDX-License-Identifier: Apache-2.0
/* VMClock (Linux include/uapi/linux/vmclock-abi.h, ACPI device AMZNC10C): a page by which programs in a guest
 * see that its clocks were disturbed, because it was moved or restored: what they knew of the counter's rate
 * is then of another processor. It offers no time itself (the counter is INVALID): kvmclock and the RTC do.
 * Read-only registers. */
#include <pthread.h>
#include <stdbool.h>
#include <stdlib.h>

#include "hv/base/checked.h"
#include "hv/dev/chips.h"
#include "hv/dev/platform.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"
#include "proto/wire.h"

#define MAGIC 0x4b4c4356u /* "VCLK" */
#define VERSION 1
#define COUNTER_INVALID 0xff
#define TYPE_UTC 0
#define STATUS_UNKNOWN 0
#define FLAG_GENERATION (1ull << 8) /* vm_generation_counter is there */

enum {
    AT_MAGIC = 0,
    AT_SIZE = 4,
    AT_VERSION = 8,
    AT_COUNTER_ID = 10,
    AT_TIME_TYPE = 11,
    AT_SEQ_COUNT = 12, /* odd while the rest changes */
    AT_DISRUPTION = 16,
    AT_FLAGS = 24,
    AT_CLOCK_STATUS = 34,
    AT_GENERATION = 104,
    ABI_BYTES = 112,
};

struct vmclock {
    pthread_mutex_t lock;
    uint8_t page[ABI_BYTES]; /* what follows is 0 */
    bool steady;
    bool came; /* with a state, and has not run since */
};

static uint64_t vmclock_read(void *dev, uint64_t offset, unsigned size)
{
    struct vmclock *c = dev;
    uint64_t v = 0;
    pthread_mutex_lock(&c->lock);
    for (unsigned i = 0; i < size && offset + i < sizeof c->page; i++)
        v |= (uint64_t)c->page[offset + i] << (8 * i);
    pthread_mutex_unlock(&c->lock);
    return v;
}

static void vmclock_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev;
    (void)offset;
    (void)size;
    (void)value;
}

/* A reader that saw the old count reads again. No reader meets an odd one: the registers are read under the
 * lock, but a structure is more than one read. */
static void disturb(struct vmclock *c, bool copy)
{
    fy_put32(c->page + AT_SEQ_COUNT, fy_get32(c->page + AT_SEQ_COUNT) + 2);
    fy_put64(c->page + AT_DISRUPTION, fy_get64(c->page + AT_DISRUPTION) + 1);
    if (copy)
        fy_put64(c->page + AT_GENERATION, fy_get64(c->page + AT_GENERATION) + 1);
}

void fy_vmclock_copied(struct fy_device *vmclock)
{
    struct vmclock *c = vmclock->dev;
    pthread_mutex_lock(&c->lock);
    disturb(c, true);
    pthread_mutex_unlock(&c->lock);
}

static int vmclock_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct vmclock *c = dev;
    Ferry__VmClock m = FERRY__VM_CLOCK__INIT;
    pthread_mutex_lock(&c->lock);
    m.seq_count = fy_get32(c->page + AT_SEQ_COUNT);
    m.disruptions = fy_get64(c->page + AT_DISRUPTION);
    m.generations = fy_get64(c->page + AT_GENERATION);
    pthread_mutex_unlock(&c->lock);
    return fy_state_pack(&m.base, buf, len, e);
}

static int vmclock_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct vmclock *c = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__vm_clock__descriptor, "vmclock", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__VmClock *m = (const Ferry__VmClock *)msg;
    pthread_mutex_lock(&c->lock);
    fy_put32(c->page + AT_SEQ_COUNT, m->seq_count & ~1u);
    fy_put64(c->page + AT_DISRUPTION, m->disruptions);
    fy_put64(c->page + AT_GENERATION, m->generations);
    c->came = true;
    pthread_mutex_unlock(&c->lock);
    protobuf_c_message_free_unpacked(msg, NULL);
    return 0;
}

/* The guest has come from elsewhere, or from before: that is the disturbance. */
static void vmclock_resume(void *dev)
{
    struct vmclock *c = dev;
    pthread_mutex_lock(&c->lock);
    if (c->came && !c->steady)
        disturb(c, false);
    c->came = false;
    pthread_mutex_unlock(&c->lock);
}

/* The clocks run on over a reset. */
static void vmclock_reset(void *dev)
{
    (void)dev;
}

static void vmclock_free(void *dev)
{
    struct vmclock *c = dev;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static const struct fy_dev_ops vmclock_ops = {
    .type = "vmclock",
    .version = 1,
    .save = vmclock_save,
    .load = vmclock_load,
    .reset = vmclock_reset,
    .free = vmclock_free,
    .resume = vmclock_resume,
};

int fy_vmclock_new(struct fy_bus *bus, bool steady, struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = vmclock_read, .write = vmclock_write};
    struct vmclock *c = calloc(1, sizeof *c);
    if (!c)
        return fy_fail(e, FY_ERESOURCE, "no memory for VMClock");
    pthread_mutex_init(&c->lock, NULL);
    c->steady = steady;
    fy_put32(c->page + AT_MAGIC, MAGIC);
    fy_put32(c->page + AT_SIZE, FY_VMCLOCK_WINDOW);
    fy_put16(c->page + AT_VERSION, VERSION);
    c->page[AT_COUNTER_ID] = COUNTER_INVALID;
    c->page[AT_TIME_TYPE] = TYPE_UTC;
    fy_put64(c->page + AT_FLAGS, FLAG_GENERATION);
    c->page[AT_CLOCK_STATUS] = STATUS_UNKNOWN;
    if (fy_bus_add(bus, FY_SPACE_MMIO, FY_VMCLOCK_ADDRESS, FY_VMCLOCK_WINDOW, &io, c, e)) {
        vmclock_free(c);
        return -1;
    }
    *out = (struct fy_device){.id = "vmclock", .ops = &vmclock_ops, .dev = c};
    return 0;
}
