// SPDX-License-Identifier: Apache-2.0
/* The life of a virtio device (virtio 1.2, chapters 2.1 to 2.5 and 3.1), its kicks and interrupts. */
#include "hv/dev/virtio.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/dev/virtio_internal.h"

uint64_t fy_virtio_offered(const struct fy_virtio *v)
{
    return v->config.features | FY_VIRTIO_RING_FEATURES;
}

void fy_virtio_update_intx(struct fy_virtio *v)
{
    fy_pci_intx(v->f, v->isr && !fy_msix_enabled(v->msix));
}

static void interrupt(struct fy_virtio *v, uint32_t bit, unsigned vector)
{
    if (fy_msix_enabled(v->msix)) {
        if (vector != NO_VECTOR)
            fy_msix_raise(v->msix, vector);
        return;
    }
    v->isr |= bit;
    fy_virtio_update_intx(v);
}

void fy_virtio_config_changed(struct fy_virtio *v)
{
    v->generation++;
    if (v->status & STATUS_DRIVER_OK)
        interrupt(v, ISR_CONFIG, v->config_vector);
}

void fy_virtio_break(struct fy_virtio *v, const char *why)
{
    if (v->status & STATUS_NEEDS_RESET)
        return;
    fy_warn_limited("%s: its driver %s; it stops until it is reset", v->id, why);
    v->active = false;
    v->status |= STATUS_NEEDS_RESET;
    fy_virtio_config_changed(v);
}

static void look_for_breakage(struct fy_virtio *v, unsigned q)
{
    char why[80];
    if (!v->queues[q].broken || !v->active)
        return;
    snprintf(why, sizeof why, "broke the rules of queue %u", q);
    fy_virtio_break(v, why);
}

void fy_virtio_notify(struct fy_virtio *v, unsigned q)
{
    if (fy_vq_wants_interrupt(&v->queues[q]))
        interrupt(v, ISR_QUEUE, v->queues[q].vector);
    look_for_breakage(v, q);
}

void fy_virtio_again(struct fy_virtio *v, unsigned q)
{
    eventfd_write(v->kicks[q].fd, 1);
}

bool fy_virtio_enter(struct fy_virtio *v)
{
    pthread_mutex_lock(&v->lock);
    return v->active && !v->paused;
}

void fy_virtio_leave(struct fy_virtio *v)
{
    pthread_mutex_unlock(&v->lock);
}

struct fy_vq *fy_virtio_queue(struct fy_virtio *v, unsigned q)
{
    return &v->queues[q];
}

uint64_t fy_virtio_features(const struct fy_virtio *v)
{
    return v->status & STATUS_FEATURES_OK ? v->driver_features : 0;
}

const struct fy_dev_host *fy_virtio_host(const struct fy_virtio *v)
{
    return fy_pci_host(v->f);
}

void *fy_virtio_dev(struct fy_virtio *v)
{
    return v->dev;
}

static void on_kick(int fd, unsigned ready, void *arg)
{
    struct fy_virtio_kick *k = arg;
    struct fy_virtio *v = k->v;
    eventfd_t n;
    (void)ready;
    eventfd_read(fd, &n);
    if (fy_virtio_enter(v) && v->queues[k->queue].started && fy_pci_bus_master(v->f)) {
        v->type->kick(v->dev, k->queue);
        look_for_breakage(v, k->queue);
    }
    fy_virtio_leave(v);
}

void fy_virtio_start_queue(struct fy_virtio *v, unsigned q)
{
    struct fy_err e;
    if (v->queues[q].started || fy_vq_start(&v->queues[q], v->driver_features, true, &e) == 0)
        return;
    fy_virtio_break(v, e.text);
}

void fy_virtio_activate(struct fy_virtio *v, bool fresh)
{
    struct fy_err e;
    v->active = true;
    for (unsigned i = 0; i < v->config.queues; i++)
        if (v->queues[i].enabled && fy_vq_start(&v->queues[i], v->driver_features, fresh, &e) < 0)
            fy_virtio_break(v, e.text);
    if (v->active)
        v->type->activate(v->dev, v->driver_features);
    if (!fresh)
        return;
    /* A driver may have made buffers available before it said DRIVER_OK. */
    for (unsigned i = 0; i < v->config.queues; i++)
        if (v->queues[i].started)
            eventfd_write(v->kicks[i].fd, 1);
}

static void drain(struct fy_virtio *v)
{
    if (v->type->drain && v->status & STATUS_DRIVER_OK)
        v->type->drain(v->dev);
}

static void reset_locked(struct fy_virtio *v)
{
    drain(v);
    v->type->reset(v->dev);
    for (unsigned i = 0; i < v->config.queues; i++)
        fy_vq_reset(&v->queues[i]);
    v->active = false;
    v->status = v->isr = 0;
    v->driver_features = 0;
    v->device_feature_select = v->driver_feature_select = v->queue_select = 0;
    v->config_vector = NO_VECTOR;
    fy_virtio_update_intx(v);
}

void fy_virtio_set_status(struct fy_virtio *v, uint32_t status)
{
    uint32_t was = v->status;
    if (!status) {
        reset_locked(v);
        return;
    }
    uint32_t more = status & STATUS_ALL & ~(was | STATUS_NEEDS_RESET);
    uint64_t offered = fy_virtio_offered(v);
    if (more & STATUS_FEATURES_OK &&
        (v->driver_features & ~offered || !(v->driver_features & FY_VIRTIO_F_VERSION_1)))
        more &= ~STATUS_FEATURES_OK; /* the driver reads it back and sees */
    if (more & STATUS_DRIVER_OK && !((was | more) & STATUS_FEATURES_OK))
        more &= ~STATUS_DRIVER_OK;
    v->status |= more;
    if (more & STATUS_DRIVER_OK)
        fy_virtio_activate(v, true);
}

static void device_reset(void *dev)
{
    struct fy_virtio *v = dev;
    pthread_mutex_lock(&v->lock);
    reset_locked(v);
    v->generation = 0;
    pthread_mutex_unlock(&v->lock);
    fy_msix_reset(v->msix);
    fy_pci_reset(v->f);
}

static void device_pause(void *dev)
{
    struct fy_virtio *v = dev;
    pthread_mutex_lock(&v->lock);
    v->paused = true;
    drain(v);
    pthread_mutex_unlock(&v->lock);
}

static void device_resume(void *dev)
{
    struct fy_virtio *v = dev;
    pthread_mutex_lock(&v->lock);
    v->paused = false;
    bool active = v->active;
    if (active && v->type->resume)
        v->type->resume(v->dev);
    for (unsigned i = 0; active && i < v->config.queues; i++)
        if (v->queues[i].started)
            eventfd_write(v->kicks[i].fd, 1);
    pthread_mutex_unlock(&v->lock);
}

static void device_counters(void *dev, struct fy_dev_counters *c)
{
    struct fy_virtio *v = dev;
    *c = (struct fy_dev_counters){0};
    pthread_mutex_lock(&v->lock);
    for (unsigned i = 0; i < v->config.queues; i++) {
        c->requests += v->queues[i].requests;
        c->from_guest += v->queues[i].from_guest;
        c->to_guest += v->queues[i].to_guest;
    }
    pthread_mutex_unlock(&v->lock);
}

static void free_watches(void *arg)
{
    struct fy_virtio *v = arg;
    for (unsigned i = 0; v->kicks && i < v->config.queues; i++)
        fy_watch_free(v->kicks[i].watch);
}

static void device_free(void *dev)
{
    struct fy_virtio *v = dev;
    if (v->config.io)
        fy_iothread_run(v->config.io, free_watches, v);
    v->type->free(v->dev);
    for (unsigned i = 0; v->kicks && i < v->config.queues; i++)
        fy_close(&v->kicks[i].fd);
    fy_msix_free(v->msix);
    pthread_mutex_destroy(&v->lock);
    free(v->kicks);
    free(v->queues);
    free(v->queue_names);
    free(v);
}

struct making {
    struct fy_virtio *v;
    struct fy_err *e;
    int r;
};

static void make_watches(void *arg)
{
    struct making *m = arg;
    struct fy_virtio *v = m->v;
    struct fy_loop *loop = fy_iothread_loop(v->config.io);
    for (unsigned i = 0; i < v->config.queues && m->r == 0; i++) {
        v->kicks[i].watch = fy_watch_fd(loop, v->kicks[i].fd, FY_READ, on_kick, &v->kicks[i], m->e);
        if (!v->kicks[i].watch)
            m->r = -1;
    }
}

static int make_queues(struct fy_virtio *v, struct fy_err *e)
{
    unsigned n = v->config.queues;
    v->kicks = calloc(n, sizeof *v->kicks);
    v->queues = calloc(n, sizeof *v->queues);
    v->queue_names = calloc(n, sizeof *v->queue_names);
    if (!v->kicks || !v->queues || !v->queue_names)
        return fy_fail(e, FY_ERESOURCE, "no memory for %s", v->id);
    for (unsigned i = 0; i < n; i++)
        v->kicks[i] = (struct fy_virtio_kick){.v = v, .queue = i, .fd = -1};
    for (unsigned i = 0; i < n; i++) {
        snprintf(v->queue_names[i], sizeof v->queue_names[i], "%s queue %u", v->id, i);
        v->queues[i].gmem = v->gmem;
        v->queues[i].name = v->queue_names[i];
        v->queues[i].size_max = v->config.queue_size;
        fy_vq_reset(&v->queues[i]);
        v->kicks[i].fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
        if (v->kicks[i].fd < 0)
            return fy_fail_errno(e, FY_ERESOURCE, errno, "%s: cannot make an eventfd", v->id);
    }
    return 0;
}

int fy_virtio_new(struct fy_pci *pci, struct fy_gmem *gmem, const struct fy_virtio_type *type,
                  const struct fy_virtio_config *config, void *dev, struct fy_virtio **made,
                  struct fy_device *out, struct fy_err *e)
{
    static const struct fy_dev_ops bare = {.version = 1,
                                           .save = fy_virtio_save,
                                           .load = fy_virtio_load,
                                           .reset = device_reset,
                                           .free = device_free,
                                           .pause = device_pause,
                                           .resume = device_resume,
                                           .counters = device_counters};
    struct fy_virtio *v = calloc(1, sizeof *v);
    if (!v) {
        type->free(dev);
        return fy_fail(e, FY_ERESOURCE, "no memory for %s", config->id);
    }
    v->type = type;
    v->config = *config;
    v->dev = dev;
    v->gmem = gmem;
    v->paused = true;
    v->config_vector = NO_VECTOR;
    v->notify_gpa = FY_PCI_UNMAPPED;
    v->ops = bare;
    v->ops.type = type->type;
    v->ops.version = type->version;
    snprintf(v->id, sizeof v->id, "%s", config->id);
    v->config.id = v->id;
    pthread_mutex_init(&v->lock, NULL);
    struct making m = {.v = v, .e = e};
    if (!config->queues || config->queues > FY_VIRTIO_QUEUES_MAX || config->queue_size > FY_VQ_SIZE_MAX)
        m.r = fy_fail(e, FY_EUSAGE, "%s: %u queues of %u", v->id, config->queues, config->queue_size);
    if (m.r == 0)
        m.r = make_queues(v, e);
    if (m.r == 0)
        m.r = fy_virtio_pci_make(pci, v, e);
    if (m.r == 0)
        fy_iothread_run(config->io, make_watches, &m);
    if (m.r < 0) {
        device_free(v);
        return -1;
    }
    *made = v;
    *out = (struct fy_device){.id = v->id, .ops = &v->ops, .dev = v};
    return 0;
}
