// SPDX-License-Identifier: Apache-2.0
/* ACPI fixed hardware (ACPI 6.4 section 4.8): PM1 event and control blocks, PM timer, power button, SCI; the
 * reset register at 0xcf9; and of the i8042 only its reset command. The machine is always in ACPI mode
 * (FADT SMI_CMD is 0), so SCI_EN stands. The PM timer's overflow interrupt is not implemented: TMR_EN reads
 * 0. From machine revision 2 on a block of eight general-purpose events. */
#include <pthread.h>
#include <stdlib.h>

#include "hv/dev/chips.h"
#include "hv/dev/platform.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

#define STS_PWRBTN 0x0100
#define STS_WAK 0x8000
#define STS_MASK (STS_PWRBTN | STS_WAK)
#define EN_GBL 0x0020
#define EN_PWRBTN 0x0100
#define EN_RTC 0x0400 /* kept for drivers that insist on it; RTC_STS never rises */
#define EN_MASK (EN_GBL | EN_PWRBTN | EN_RTC)
#define CNT_SCI_EN 0x0001
#define CNT_SLP_TYP 0x1c00
#define CNT_SLP_EN 0x2000
#define SLP_TYP_S5 (5u << 10) /* as \_S5 in dsdt.asl says */

#define RESET_CPU 0x04  /* a rising edge of this bit resets */
#define RESET_MASK 0x0e /* bits that read back */
#define PM_TIMER_HZ 3579545u
#define PM_TIMER_MASK 0xffffffu

/* Output buffer full for ever and input never busy: a probe that flushes the buffer gives up at once, and
 * code that waits for room before a reset command need not. */
#define I8042_STATUS 0x01
#define I8042_PULSE_RESET 0xfe

struct pm {
    pthread_mutex_t lock;
    const struct fy_dev_host *host;
    uint16_t status, enable, control;
    uint8_t reset_latch;
    bool has_events; /* the two below are there */
    uint8_t gpe_status, gpe_enable;
};

static void update_sci(struct pm *p)
{
    p->host->irq(p->host->arg, FY_GSI_SCI,
                 (p->status & p->enable & EN_PWRBTN) || (p->gpe_status & p->gpe_enable));
}

static uint32_t pm_timer(const struct pm *p)
{
    uint64_t ns = p->host->guest_ns(p->host->arg);
    return (uint32_t)((unsigned __int128)ns * PM_TIMER_HZ / 1000000000u) & PM_TIMER_MASK;
}

static uint64_t event_read(void *dev, uint64_t offset, unsigned size)
{
    struct pm *p = dev;
    pthread_mutex_lock(&p->lock);
    uint64_t block = p->status | (uint64_t)p->enable << 16;
    pthread_mutex_unlock(&p->lock);
    block >>= 8 * offset;
    return size < 8 ? block & ((1ull << 8 * size) - 1) : block;
}

static void event_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = dev;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < size; i++) {
        unsigned shift = 8 * ((unsigned)(offset + i) & 1);
        uint16_t byte = (uint16_t)((value >> (8 * i) & 0xff) << shift);
        if (offset + i < 2)
            p->status &= (uint16_t)~byte; /* write one to clear */
        else if (offset + i < 4)
            p->enable = (uint16_t)((p->enable & ~(0xffu << shift)) | byte) & EN_MASK;
    }
    update_sci(p);
    pthread_mutex_unlock(&p->lock);
}

static uint64_t control_read(void *dev, uint64_t offset, unsigned size)
{
    struct pm *p = dev;
    (void)size;
    pthread_mutex_lock(&p->lock);
    uint64_t v = p->control;
    pthread_mutex_unlock(&p->lock);
    return v >> (8 * offset);
}

static void control_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = dev;
    pthread_mutex_lock(&p->lock);
    uint16_t v = p->control;
    bool sleep = false;
    for (unsigned i = 0; i < size && offset + i < 2; i++) {
        unsigned shift = 8 * (unsigned)(offset + i);
        v = (uint16_t)((v & ~(0xffu << shift)) | (value >> (8 * i) & 0xff) << shift);
        sleep |= shift == 8 && v & CNT_SLP_EN;
    }
    p->control = (v & CNT_SLP_TYP) | CNT_SCI_EN;
    bool off = sleep && (p->control & CNT_SLP_TYP) == SLP_TYP_S5;
    pthread_mutex_unlock(&p->lock);
    if (off)
        p->host->power_off(p->host->arg);
}

static uint64_t timer_read(void *dev, uint64_t offset, unsigned size)
{
    (void)size;
    return pm_timer(dev) >> (8 * offset);
}

static void timer_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    (void)dev;
    (void)offset;
    (void)size;
    (void)value;
}

static uint64_t reset_read(void *dev, uint64_t offset, unsigned size)
{
    struct pm *p = dev;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&p->lock);
    uint64_t v = p->reset_latch;
    pthread_mutex_unlock(&p->lock);
    return v;
}

static void reset_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = dev;
    (void)offset;
    (void)size;
    pthread_mutex_lock(&p->lock);
    bool reset = value & RESET_CPU && !(p->reset_latch & RESET_CPU);
    p->reset_latch = value & RESET_MASK;
    pthread_mutex_unlock(&p->lock);
    if (reset)
        p->host->reset(p->host->arg);
}

static uint64_t gpe_read(void *dev, uint64_t offset, unsigned size)
{
    struct pm *p = dev;
    pthread_mutex_lock(&p->lock);
    uint64_t block = p->gpe_status | (uint64_t)p->gpe_enable << 8;
    pthread_mutex_unlock(&p->lock);
    block >>= 8 * offset;
    return size == 1 ? block & 0xff : block;
}

static void gpe_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = dev;
    pthread_mutex_lock(&p->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t byte = (uint8_t)(value >> (8 * i));
        if (offset + i == 0)
            p->gpe_status &= (uint8_t)~byte; /* write one to clear */
        else if (offset + i == 1)
            p->gpe_enable = byte;
    }
    update_sci(p);
    pthread_mutex_unlock(&p->lock);
}

static uint64_t i8042_read(void *dev, uint64_t offset, unsigned size)
{
    (void)dev;
    (void)offset;
    (void)size;
    return I8042_STATUS;
}

static void i8042_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct pm *p = dev;
    (void)offset;
    (void)size;
    if ((value & 0xff) == I8042_PULSE_RESET)
        p->host->reset(p->host->arg);
}

void fy_pm_power_button(struct fy_device *pm)
{
    struct pm *p = pm->dev;
    pthread_mutex_lock(&p->lock);
    p->status |= STS_PWRBTN;
    update_sci(p);
    pthread_mutex_unlock(&p->lock);
}

void fy_pm_event(struct fy_device *pm, unsigned bit)
{
    struct pm *p = pm->dev;
    pthread_mutex_lock(&p->lock);
    p->gpe_status |= (uint8_t)(1u << bit);
    update_sci(p);
    pthread_mutex_unlock(&p->lock);
}

static int pm_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct pm *p = dev;
    Ferry__PowerManagement m = FERRY__POWER_MANAGEMENT__INIT;
    pthread_mutex_lock(&p->lock);
    m.pm1_status = p->status;
    m.pm1_enable = p->enable;
    m.pm1_control = p->control;
    m.reset_latch = p->reset_latch;
    m.gpe_status = p->gpe_status;
    m.gpe_enable = p->gpe_enable;
    pthread_mutex_unlock(&p->lock);
    return fy_state_pack(&m.base, buf, len, e);
}

static int check(const char *what, uint32_t value, uint32_t mask, struct fy_err *e)
{
    if (value & ~mask)
        return fy_fail(e, FY_ECORRUPT, "pm: %s is %#x, only %#x may be set", what, value, mask);
    return 0;
}

static int pm_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct pm *p = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__power_management__descriptor, "pm", buf, len, e);
    if (!msg)
        return -1;
    Ferry__PowerManagement m = *(const Ferry__PowerManagement *)msg; /* plain numbers, no pointers into msg */
    protobuf_c_message_free_unpacked(msg, NULL);
    if (check("pm1_status", m.pm1_status, STS_MASK, e) || check("pm1_enable", m.pm1_enable, EN_MASK, e) ||
        check("pm1_control", m.pm1_control, CNT_SLP_TYP | CNT_SCI_EN, e) ||
        check("reset_latch", m.reset_latch, RESET_MASK, e) ||
        check("gpe_status", m.gpe_status, p->has_events ? 0xff : 0, e) ||
        check("gpe_enable", m.gpe_enable, p->has_events ? 0xff : 0, e))
        return -1;
    if (!(m.pm1_control & CNT_SCI_EN))
        return fy_fail(e, FY_ECORRUPT, "pm: pm1_control is %#x, SCI_EN must be set", m.pm1_control);
    pthread_mutex_lock(&p->lock);
    p->status = (uint16_t)m.pm1_status;
    p->enable = (uint16_t)m.pm1_enable;
    p->control = (uint16_t)m.pm1_control;
    p->reset_latch = (uint8_t)m.reset_latch;
    p->gpe_status = (uint8_t)m.gpe_status;
    p->gpe_enable = (uint8_t)m.gpe_enable;
    update_sci(p);
    pthread_mutex_unlock(&p->lock);
    return 0;
}

static void pm_reset(void *dev)
{
    struct pm *p = dev;
    pthread_mutex_lock(&p->lock);
    p->status = 0;
    p->enable = 0;
    p->control = CNT_SCI_EN;
    p->reset_latch = 0;
    p->gpe_status = p->gpe_enable = 0;
    update_sci(p);
    pthread_mutex_unlock(&p->lock);
}

static void pm_free(void *dev)
{
    struct pm *p = dev;
    pthread_mutex_destroy(&p->lock);
    free(p);
}

static const struct fy_dev_ops pm_ops = {
    .type = "pm",
    .version = 1,
    .save = pm_save,
    .load = pm_load,
    .reset = pm_reset,
    .free = pm_free,
};

int fy_pm_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops event = {.read = event_read, .write = event_write};
    static const struct fy_io_ops control = {.read = control_read, .write = control_write};
    static const struct fy_io_ops timer = {.read = timer_read, .write = timer_write};
    static const struct fy_io_ops reset = {.read = reset_read, .write = reset_write};
    static const struct fy_io_ops i8042 = {.read = i8042_read, .write = i8042_write};
    struct pm *p = calloc(1, sizeof *p);
    if (!p)
        return fy_fail(e, FY_ERESOURCE, "no memory for the power management");
    pthread_mutex_init(&p->lock, NULL);
    p->host = host;
    p->control = CNT_SCI_EN;
    if (fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_PM1_EVENT, 4, &event, p, e) ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_PM1_CONTROL, 2, &control, p, e) ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_PM_TIMER, 4, &timer, p, e) ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_RESET, 1, &reset, p, e) ||
        fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_I8042_COMMAND, 1, &i8042, p, e)) {
        pm_free(p);
        return -1;
    }
    *out = (struct fy_device){.id = "pm", .ops = &pm_ops, .dev = p};
    return 0;
}

int fy_pm_add_events(struct fy_bus *bus, struct fy_device *pm, struct fy_err *e)
{
    static const struct fy_io_ops gpe = {.read = gpe_read, .write = gpe_write};
    struct pm *p = pm->dev;
    if (fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_GPE0, 2, &gpe, p, e))
        return -1;
    p->has_events = true;
    return 0;
}
