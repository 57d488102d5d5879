// SPDX-License-Identifier: Apache-2.0
/* Registers of the modern PCI transport (virtio 1.2, 4.1.4): all in BAR 0, MSI-X in BAR 1. */
#include <string.h>
#include <sys/eventfd.h>

#include "hv/base/checked.h"
#include "hv/dev/pci_internal.h"
#include "hv/dev/virtio_internal.h"
#include "proto/wire.h"

#define VENDOR 0x1af4
#define DEVICE_BASE 0x1040
#define MODERN_REVISION 1

/* Common configuration (4.1.4.3). */
enum {
    C_DEVICE_FEATURE_SELECT = 0,
    C_DEVICE_FEATURE = 4,
    C_DRIVER_FEATURE_SELECT = 8,
    C_DRIVER_FEATURE = 12,
    C_CONFIG_VECTOR = 16,
    C_NUM_QUEUES = 18,
    C_STATUS = 20,
    C_GENERATION = 21,
    C_QUEUE_SELECT = 22,
    C_QUEUE_SIZE = 24,
    C_QUEUE_VECTOR = 26,
    C_QUEUE_ENABLE = 28,
    C_QUEUE_NOTIFY_OFF = 30,
    C_QUEUE_DESC = 32,
    C_QUEUE_DRIVER = 40,
    C_QUEUE_DEVICE = 48,
    C_QUEUE_NOTIFY_DATA = 56,
};

/* Kinds of capability (4.1.4). */
enum { CAP_COMMON = 1, CAP_NOTIFY, CAP_ISR, CAP_DEVICE, CAP_WINDOW };

static uint32_t half(uint64_t features, uint32_t select)
{
    return select == 0 ? (uint32_t)features : select == 1 ? (uint32_t)(features >> 32) : 0;
}

static void fill_common(struct fy_virtio *v, uint8_t c[REG_COMMON_BYTES])
{
    memset(c, 0, REG_COMMON_BYTES);
    fy_put32(c + C_DEVICE_FEATURE_SELECT, v->device_feature_select);
    fy_put32(c + C_DEVICE_FEATURE, half(fy_virtio_offered(v), v->device_feature_select));
    fy_put32(c + C_DRIVER_FEATURE_SELECT, v->driver_feature_select);
    fy_put32(c + C_DRIVER_FEATURE, half(v->driver_features, v->driver_feature_select));
    fy_put16(c + C_CONFIG_VECTOR, v->config_vector);
    fy_put16(c + C_NUM_QUEUES, (uint16_t)v->config.queues);
    c[C_STATUS] = (uint8_t)v->status;
    c[C_GENERATION] = (uint8_t)v->generation;
    fy_put16(c + C_QUEUE_SELECT, (uint16_t)v->queue_select);
    if (v->queue_select >= v->config.queues)
        return; /* a size of 0: no such queue */
    const struct fy_vq *q = &v->queues[v->queue_select];
    fy_put16(c + C_QUEUE_SIZE, q->size);
    fy_put16(c + C_QUEUE_VECTOR, q->vector);
    fy_put16(c + C_QUEUE_ENABLE, q->enabled);
    fy_put16(c + C_QUEUE_NOTIFY_OFF, (uint16_t)v->queue_select);
    fy_put64(c + C_QUEUE_DESC, q->desc);
    fy_put64(c + C_QUEUE_DRIVER, q->driver);
    fy_put64(c + C_QUEUE_DEVICE, q->device);
    fy_put16(c + C_QUEUE_NOTIFY_DATA, (uint16_t)v->queue_select);
}

static uint16_t vector_or_none(const struct fy_virtio *v, uint64_t value)
{
    return value < v->config.queues + 1 ? (uint16_t)value : NO_VECTOR;
}

/* One half or all of a 64-bit address. */
static void put_address(uint64_t *a, unsigned offset, unsigned size, uint64_t value)
{
    if (size == 8)
        *a = value;
    else if (offset & 4)
        *a = (*a & 0xffffffffu) | value << 32;
    else
        *a = (*a & ~0xffffffffull) | value;
}

static void write_queue(struct fy_virtio *v, unsigned offset, unsigned size, uint64_t value)
{
    if (v->queue_select >= v->config.queues)
        return;
    struct fy_vq *q = &v->queues[v->queue_select];
    if (offset == C_QUEUE_VECTOR && size == 2) {
        q->vector = vector_or_none(v, value);
        return;
    }
    if (q->enabled || q->started)
        return; /* frozen until a reset */
    if (offset == C_QUEUE_SIZE && size == 2) {
        if (value && value <= q->size_max)
            q->size = (uint16_t)value;
    } else if (offset == C_QUEUE_ENABLE && size == 2) {
        q->enabled = value == 1;
        if (q->enabled && v->active)
            fy_virtio_start_queue(v, v->queue_select);
    } else if (offset >= C_QUEUE_DESC && offset < C_QUEUE_NOTIFY_DATA && size >= 4 && offset % size == 0) {
        uint64_t *const areas[] = {&q->desc, &q->driver, &q->device};
        put_address(areas[(offset - C_QUEUE_DESC) / 8], offset, size, value);
    }
}

static void write_common(struct fy_virtio *v, unsigned offset, unsigned size, uint64_t value)
{
    if (offset >= C_QUEUE_SIZE) {
        write_queue(v, offset, size, value);
    } else if (offset == C_DEVICE_FEATURE_SELECT && size == 4) {
        v->device_feature_select = (uint32_t)value;
    } else if (offset == C_DRIVER_FEATURE_SELECT && size == 4) {
        v->driver_feature_select = (uint32_t)value;
    } else if (offset == C_DRIVER_FEATURE && size == 4) {
        unsigned shift = 32 * v->driver_feature_select;
        if (v->driver_feature_select < 2 && !(v->status & STATUS_FEATURES_OK))
            v->driver_features = (v->driver_features & ~(0xffffffffull << shift)) | value << shift;
    } else if (offset == C_CONFIG_VECTOR && size == 2) {
        v->config_vector = vector_or_none(v, value);
    } else if (offset == C_STATUS && size == 1) {
        fy_virtio_set_status(v, (uint32_t)value);
    } else if (offset == C_QUEUE_SELECT && size == 2) {
        v->queue_select = (uint32_t)value;
    }
}

static void read_locked(struct fy_virtio *v, uint64_t offset, uint8_t *buf, unsigned size)
{
    if (fy_range_ok(offset - REG_COMMON, size, REG_COMMON_BYTES)) {
        uint8_t c[REG_COMMON_BYTES];
        fill_common(v, c);
        memcpy(buf, c + offset - REG_COMMON, size);
    } else if (offset == REG_ISR) {
        buf[0] = (uint8_t)v->isr;
        v->isr = 0;
        fy_virtio_update_intx(v);
    } else if (offset >= REG_DEVICE && fy_range_ok(offset - REG_DEVICE, size, v->config.config_bytes)) {
        v->type->config_read(v->dev, (uint32_t)(offset - REG_DEVICE), buf, size);
    }
}

static uint64_t reg_read(void *dev, uint64_t offset, unsigned size)
{
    struct fy_virtio *v = dev;
    uint8_t buf[8] = {0};
    pthread_mutex_lock(&v->lock);
    read_locked(v, offset, buf, FY_MIN(size, 8u));
    pthread_mutex_unlock(&v->lock);
    return fy_get64(buf);
}

static void reg_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct fy_virtio *v = dev;
    uint8_t buf[8];
    if (offset >= REG_NOTIFY) {
        uint64_t q = (offset - REG_NOTIFY) / REG_NOTIFY_STEP;
        if (q < v->config.queues)
            eventfd_write(v->kicks[q].fd, 1);
        return;
    }
    pthread_mutex_lock(&v->lock);
    if (fy_range_ok(offset - REG_COMMON, size, REG_COMMON_BYTES)) {
        write_common(v, (unsigned)(offset - REG_COMMON), size, value);
    } else if (offset >= REG_DEVICE && fy_range_ok(offset - REG_DEVICE, size, v->config.config_bytes) &&
               v->type->config_write) {
        fy_put64(buf, value);
        v->type->config_write(v->dev, (uint32_t)(offset - REG_DEVICE), buf, size);
    }
    pthread_mutex_unlock(&v->lock);
}

static void bar_moved(void *dev, unsigned bar, uint64_t gpa)
{
    struct fy_virtio *v = dev;
    const struct fy_dev_host *host = fy_pci_host(v->f);
    if (bar != REG_BAR || !host->doorbell)
        return;
    for (unsigned i = 0; i < v->config.queues; i++) {
        struct fy_virtio_kick *k = &v->kicks[i];
        uint64_t place = REG_NOTIFY + (uint64_t)i * REG_NOTIFY_STEP;
        if (k->doorbell)
            host->doorbell(host->arg, v->notify_gpa + place, k->fd, false);
        k->doorbell = gpa != FY_PCI_UNMAPPED && host->doorbell(host->arg, gpa + place, k->fd, true);
    }
    v->notify_gpa = gpa;
}

/* The window (4.1.4.9): bar, offset, length and data of its capability, through which configuration space
 * reaches BAR 0. */
static bool window(struct fy_virtio *v, uint32_t *offset, uint32_t *len, uint8_t **data)
{
    uint8_t *c = fy_pci_config(v->f) + v->window;
    *offset = fy_get32(c + 8);
    *len = fy_get32(c + 12);
    *data = c + 16;
    return c[4] == REG_BAR && (*len == 1 || *len == 2 || *len == 4) && *offset % *len == 0 &&
           fy_range_ok(*offset, *len, REG_BAR_BYTES);
}

static bool touches_data(const struct fy_virtio *v, unsigned offset, unsigned len)
{
    return offset < v->window + 20 && offset + len > v->window + 16;
}

static void config_read(void *dev, unsigned offset, unsigned len)
{
    struct fy_virtio *v = dev;
    uint32_t at, n;
    uint8_t *data;
    if (touches_data(v, offset, len) && window(v, &at, &n, &data))
        fy_put32(data, (uint32_t)reg_read(v, at, n));
}

static void config_written(void *dev, unsigned offset, unsigned len)
{
    struct fy_virtio *v = dev;
    uint32_t at, n;
    uint8_t *data;
    if (touches_data(v, offset, len) && window(v, &at, &n, &data)) {
        uint32_t value = fy_get32(data);
        reg_write(v, at, n, n == 4 ? value : value & ((1u << 8 * n) - 1));
    }
    fy_msix_config_written(v->msix);
    if (offset < PCI_STATUS && offset + len > PCI_COMMAND) {
        pthread_mutex_lock(&v->lock);
        fy_virtio_update_intx(v);
        pthread_mutex_unlock(&v->lock);
    }
}

static int add_capability(struct fy_virtio *v, uint8_t kind, uint32_t offset, uint32_t bytes, unsigned len,
                          struct fy_err *e)
{
    uint8_t body[20] = {0}, writable[20] = {0};
    body[2] = (uint8_t)len;
    body[3] = kind;
    body[4] = REG_BAR;
    fy_put32(body + 8, offset);
    fy_put32(body + 12, bytes);
    if (kind == CAP_NOTIFY)
        fy_put32(body + 16, REG_NOTIFY_STEP);
    if (kind == CAP_WINDOW) {
        writable[4] = 0xff;
        memset(writable + 8, 0xff, 12);
    }
    return fy_pci_add_capability(v->f, PCI_CAP_VENDOR, body, writable, len, e);
}

int fy_virtio_pci_make(struct fy_pci *pci, struct fy_virtio *v, struct fy_err *e)
{
    static const struct fy_pci_ops ops = {
        .bar_moved = bar_moved, .config_written = config_written, .config_read = config_read};
    static const struct fy_io_ops io = {.read = reg_read, .write = reg_write};
    struct fy_pci_id id = {
        .vendor = VENDOR,
        .device = (uint16_t)(DEVICE_BASE + v->type->device_id),
        .subsystem_vendor = VENDOR,
        .subsystem = (uint16_t)(DEVICE_BASE + v->type->device_id),
        .revision = MODERN_REVISION,
        .class_code = v->type->pci_class,
        .intx = true,
    };
    if (fy_pci_add(pci, v->config.slot, 0, &id, &ops, v, &v->f, e) < 0 ||
        fy_pci_add_bar(v->f, REG_BAR, REG_BAR_BYTES, &io, v, e) < 0)
        return -1;
    v->msix = fy_msix_new(v->f, MSIX_BAR, v->config.queues + 1, e);
    if (!v->msix || add_capability(v, CAP_COMMON, REG_COMMON, REG_COMMON_BYTES, 16, e) < 0 ||
        add_capability(v, CAP_NOTIFY, REG_NOTIFY, v->config.queues * REG_NOTIFY_STEP, 20, e) < 0 ||
        add_capability(v, CAP_ISR, REG_ISR, 1, 16, e) < 0 ||
        (v->config.config_bytes &&
         add_capability(v, CAP_DEVICE, REG_DEVICE, v->config.config_bytes, 16, e) < 0))
        return -1;
    int at = add_capability(v, CAP_WINDOW, 0, 0, 20, e);
    v->window = (unsigned)at;
    return at < 0 ? -1 : 0;
}
