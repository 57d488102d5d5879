// SPDX-License-Identifier: Apache-2.0
/* State of a virtio device: what its driver set up and where the rings stand. Nothing is in flight. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/state.h"
#include "hv/dev/virtio_internal.h"

static int save_queues(const struct fy_virtio *v, Ferry__VirtioDevice *m, struct fy_err *e)
{
    m->queues = calloc(v->config.queues, sizeof *m->queues);
    for (unsigned i = 0; m->queues && i < v->config.queues; i++) {
        if (v->queues[i].in_flight)
            return fy_fail(e, FY_EFAIL, "%s: %u requests are still in flight", v->id, v->queues[i].in_flight);
        Ferry__Virtqueue *q = fy_vq_save(&v->queues[i]);
        if (!q)
            break;
        m->queues[m->n_queues++] = q;
    }
    return m->n_queues == v->config.queues ? 0 : fy_fail(e, FY_ERESOURCE, "no memory for %s's state", v->id);
}

static int save_locked(struct fy_virtio *v, Ferry__VirtioDevice *m, struct fy_err *e)
{
    m->status = v->status;
    m->driver_features = v->driver_features;
    m->device_feature_select = v->device_feature_select;
    m->driver_feature_select = v->driver_feature_select;
    m->queue_select = v->queue_select;
    m->config_vector = v->config_vector;
    m->isr = v->isr;
    m->config_generation = v->generation;
    m->pci = fy_pci_save(v->f, e);
    m->msix = fy_msix_save(v->msix, e);
    if (!m->pci || !m->msix || save_queues(v, m, e) < 0)
        return -1;
    return v->type->save ? v->type->save(v->dev, &m->device.data, &m->device.len, e) : 0;
}

int fy_virtio_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct fy_virtio *v = dev;
    Ferry__VirtioDevice *m = malloc(sizeof *m);
    if (!m)
        return fy_fail(e, FY_ERESOURCE, "no memory for %s's state", v->id);
    ferry__virtio_device__init(m);
    pthread_mutex_lock(&v->lock);
    int r = save_locked(v, m, e);
    pthread_mutex_unlock(&v->lock);
    if (r == 0)
        r = fy_state_pack(&m->base, buf, len, e);
    ferry__virtio_device__free_unpacked(m, NULL);
    return r;
}

static int check_head(const struct fy_virtio *v, const Ferry__VirtioDevice *m, struct fy_err *e)
{
    const char *what = NULL;
    bool ready = m->status & STATUS_DRIVER_OK;
    if (m->status & ~STATUS_ALL)
        what = "status";
    else if (m->driver_features & ~fy_virtio_offered(v) && m->status & STATUS_FEATURES_OK)
        what = "negotiated features";
    else if (ready && !(m->status & STATUS_FEATURES_OK))
        what = "status: DRIVER_OK without FEATURES_OK";
    else if (m->config_vector != NO_VECTOR && m->config_vector > v->config.queues)
        what = "configuration vector";
    else if (m->isr & ~(ISR_QUEUE | ISR_CONFIG))
        what = "ISR";
    else if (m->n_queues != v->config.queues)
        what = "number of queues";
    if (what)
        return fy_fail(e, FY_ECORRUPT, "%s: its %s cannot be", v->id, what);
    return 0;
}

static int check(struct fy_virtio *v, const Ferry__VirtioDevice *m, struct fy_err *e)
{
    if (check_head(v, m, e) < 0 || fy_pci_check(v->f, m->pci, v->id, e) < 0 ||
        fy_msix_check(v->msix, m->msix, v->id, e) < 0)
        return -1;
    for (unsigned i = 0; i < v->config.queues; i++) {
        const Ferry__Virtqueue *q = m->queues[i];
        if (q->vector != NO_VECTOR && q->vector > v->config.queues)
            return fy_fail(e, FY_ECORRUPT, "%s queue %u: vector %u", v->id, i, q->vector);
        /* Before DRIVER_OK addresses are what the driver has written so far, right or not. */
        struct fy_vq *have = &v->queues[i];
        Ferry__Virtqueue loose = *q;
        loose.enabled =
            q->enabled && m->status & STATUS_DRIVER_OK && !q->broken && !(m->status & STATUS_NEEDS_RESET);
        if (fy_vq_check(have, &loose, m->driver_features, e) < 0)
            return -1;
    }
    if (!v->type->load && m->device.len)
        return fy_fail(e, FY_ECORRUPT, "%s: %zu bytes of state where there are none", v->id, m->device.len);
    return 0;
}

static void commit(struct fy_virtio *v, const Ferry__VirtioDevice *m)
{
    for (unsigned i = 0; i < v->config.queues; i++) {
        fy_vq_stop(&v->queues[i]);
        fy_vq_load(&v->queues[i], m->queues[i]);
    }
    v->status = m->status;
    v->driver_features = m->driver_features;
    v->device_feature_select = m->device_feature_select;
    v->driver_feature_select = m->driver_feature_select;
    v->queue_select = m->queue_select;
    v->config_vector = (uint16_t)m->config_vector;
    v->isr = m->isr;
    v->generation = m->config_generation;
    v->active = false;
    if (v->status & STATUS_DRIVER_OK && !(v->status & STATUS_NEEDS_RESET))
        fy_virtio_activate(v, false);
    fy_virtio_update_intx(v);
}

int fy_virtio_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct fy_virtio *v = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__virtio_device__descriptor, v->id, buf, len, e);
    if (!msg)
        return -1;
    const Ferry__VirtioDevice *m = (const Ferry__VirtioDevice *)msg;
    pthread_mutex_lock(&v->lock);
    int r = check(v, m, e);
    if (r == 0 && v->type->load)
        r = v->type->load(v->dev, m->device.data, m->device.len, e);
    pthread_mutex_unlock(&v->lock);
    if (r == 0) {
        /* Not under the device's lock: the configuration lock comes before it. */
        fy_pci_load(v->f, m->pci);
        fy_msix_load(v->msix, m->msix);
        pthread_mutex_lock(&v->lock);
        commit(v, m);
        pthread_mutex_unlock(&v->lock);
    }
    protobuf_c_message_free_unpacked(msg, NULL);
    return r;
}
