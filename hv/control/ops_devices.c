// SPDX-License-Identifier: Apache-2.0
/* Requests about devices. */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "hv/base/io.h"
#include "hv/control/internal.h"
#include "hv/dev/tokens.h"
#include "hv/dev/virtio_net.h"
#include "hv/dev/virtio_vsock.h"
#include "proto/wire.h"

int fy_op_balloon(struct fy_server *s, const Ferry__BalloonRequest *op, struct fy_answer *a, struct fy_err *e)
{
    struct fy_virtio *balloon = fy_machine_balloon(s->m);
    struct fy_balloon_status st;
    Ferry__BalloonReply *r = &a->u.balloon;
    if (!balloon)
        return fy_fail(e, FY_EUNSUPPORTED, "this guest has no memory balloon");
    uint64_t memory = fy_machine_desc(s->m)->memory_bytes;
    if (op->set && op->target >= memory)
        return fy_fail(e, FY_EUSAGE, "the guest has %llu MiB of memory and cannot give up %llu MiB",
                       (unsigned long long)(memory >> 20), (unsigned long long)(op->target >> 20));
    if (op->set)
        fy_balloon_set_target(balloon, op->target);
    fy_balloon_status(balloon, &st);
    ferry__balloon_reply__init(r);
    r->target = st.target;
    r->actual = st.actual;
    r->reported = st.reported;
    if (st.stats_known) {
        memcpy(a->balloon_stats, st.stats, sizeof st.stats);
        r->stats = a->balloon_stats;
        r->n_stats = FY_BALLOON_STATS;
    }
    a->resp.op_case = FERRY__RESPONSE__OP_BALLOON;
    a->resp.balloon = r;
    return 0;
}

int fy_op_generation(struct fy_server *s, bool change, struct fy_answer *a, struct fy_err *e)
{
    Ferry__GenerationReply *r = &a->u.generation;
    if (change && fy_machine_running(s->m))
        return fy_fail(e, FY_ESTATE, "a guest that runs is no copy: pause it first");
    if ((change && fy_machine_new_generation(s->m, e) < 0) ||
        fy_machine_generation(s->m, a->generation_id, e) < 0)
        return -1;
    ferry__generation_reply__init(r);
    r->id = (ProtobufCBinaryData){sizeof a->generation_id, a->generation_id};
    a->resp.op_case = FERRY__RESPONSE__OP_GENERATION;
    a->resp.generation = r;
    return 0;
}

#define FRAMES_ROOM (FY_MSG_MAX - 1024)

int fy_op_frames(struct fy_server *s, struct fy_answer *a, struct fy_err *e)
{
    static uint8_t buf[FRAMES_ROOM];
    Ferry__FramesReply *r = &a->u.frames;
    size_t used = 0;
    bool more = false;
    if (!fy_life_latched(s->life))
        return fy_fail(e, FY_ESTATE, "this guest was not handed over: its frames are its own");
    for (unsigned i = 0; i < fy_machine_nics(s->m) && !more; i++)
        used += fy_virtio_net_collect(fy_machine_nic(s->m, i), i, buf + used, sizeof buf - used, &more);
    ferry__frames_reply__init(r);
    r->frames = (ProtobufCBinaryData){used, buf};
    r->more = more;
    a->resp.op_case = FERRY__RESPONSE__OP_FRAMES;
    a->resp.frames = r;
    return 0;
}

int fy_op_late_frames(struct fy_server *s, const Ferry__LateFramesRequest *op, struct fy_err *e)
{
    const uint8_t *p = op->frames.data;
    size_t left = op->frames.len;
    if (!fy_machine_running(s->m) && fy_life_latched(s->life))
        return fy_fail(e, FY_ESTATE, "this guest was handed over");
    while (left) {
        if (left < FY_LATE_HEAD || fy_get32(p + 4) > left - FY_LATE_HEAD)
            return fy_fail(e, FY_ECORRUPT, "%zu bytes are no frame", left);
        size_t len = FY_LATE_HEAD + fy_get32(p + 4);
        struct fy_device *d = fy_machine_nic(s->m, fy_get32(p));
        if (!d)
            return fy_fail(e, FY_ECORRUPT, "a frame for network card %u", fy_get32(p));
        if (fy_virtio_net_late(d, p, len, e) < 0)
            return -1;
        p += len;
        left -= len;
    }
    return 0;
}

static int find_nic(struct fy_server *s, const char *id, struct fy_err *e)
{
    for (unsigned i = 0; i < fy_machine_nics(s->m); i++)
        if (!strcmp(fy_machine_nic(s->m, i)->id, id))
            return (int)i;
    return fy_fail(e, FY_ENOTFOUND, "this guest has no network card %s", id);
}

int fy_op_nic(struct fy_server *s, const Ferry__NicRequest *op, const int *fds, int nfds, struct fy_err *e)
{
    int i = find_nic(s, op->id, e);
    if (i < 0)
        return -1;
    struct fy_device *d = fy_machine_nic(s->m, (unsigned)i);
    if (op->set_rate && op->rate && (op->rate < FY_TOKENS_RATE_MIN || op->rate > FY_TOKENS_RATE_MAX))
        return fy_fail(e, FY_EUSAGE, "%s: a limit of %llu bytes/s (%u at least, 0 for none)", op->id,
                       (unsigned long long)op->rate, FY_TOKENS_RATE_MIN);
    if (op->attach) {
        int fd = nfds == 1 ? fy_dup(fds[0]) : -1;
        if (fd < 0)
            return fy_fail(e, FY_EUSAGE, "%s is joined by one descriptor, %d came", op->id, nfds);
        if (fy_virtio_net_attach(d, fd, e) < 0) {
            fy_close(&fd);
            return -1;
        }
    }
    if (op->set_rate)
        fy_machine_set_nic_rate(s->m, (unsigned)i, op->rate);
    return 0;
}

void fy_status_nics(struct fy_server *s, struct fy_answer *a, Ferry__StatusReply *r)
{
    for (unsigned i = 0; i < fy_machine_nics(s->m); i++) {
        struct fy_device *d = fy_machine_nic(s->m, i);
        struct fy_net_status st;
        Ferry__NicStatus *n = &a->nics[i];
        fy_virtio_net_status(d, &st);
        ferry__nic_status__init(n);
        n->id = (char *)(uintptr_t)d->id;
        n->link = st.link;
        n->rate = st.rate;
        n->rx_frames = st.rx.frames;
        n->rx_bytes = st.rx.bytes;
        n->rx_dropped = st.rx.dropped;
        n->tx_frames = st.tx.frames;
        n->tx_bytes = st.tx.bytes;
        n->tx_dropped = st.tx.dropped;
        a->nic_list[i] = n;
    }
    r->nics = a->nic_list;
    r->n_nics = fy_machine_nics(s->m);
}

int fy_op_disk(struct fy_server *s, const Ferry__DiskRequest *op, const int *fds, int nfds, struct fy_err *e)
{
    struct fy_machine_disk d;
    for (unsigned i = 0; fy_machine_disk_status(s->m, i, &d); i++) {
        if (strcmp(d.id, op->id) != 0)
            continue;
        int fd = nfds == 1 ? fy_dup(fds[0]) : -1;
        if (fd < 0)
            return fy_fail(e, FY_EUSAGE, "%s is served by way of one descriptor, %d came", op->id, nfds);
        return fy_machine_attach_disk(s->m, i, fd, e);
    }
    return fy_fail(e, FY_ENOTFOUND, "this guest has no disk %s", op->id);
}

void fy_status_disks(struct fy_server *s, struct fy_answer *a, Ferry__StatusReply *r)
{
    r->disks = a->disk_list;
    r->n_disks = 0;
    while (r->n_disks < FY_DISKS_LIMIT &&
           fy_machine_disk_status(s->m, (unsigned)r->n_disks, &a->disk_status[r->n_disks])) {
        struct fy_machine_disk *d = &a->disk_status[r->n_disks];
        Ferry__DiskStatus *k = &a->disks[r->n_disks];
        ferry__disk_status__init(k);
        k->id = (char *)(uintptr_t)d->id;
        k->served = d->served;
        k->process = d->process;
        k->up = d->up;
        k->waits = d->waits;
        k->why = d->why;
        a->disk_list[r->n_disks++] = k;
    }
}

int fy_op_stats(struct fy_server *s, struct fy_answer *a, struct fy_err *e)
{
    (void)e;
    Ferry__StatsReply *r = &a->u.stats;
    struct fy_virtio *balloon = fy_machine_balloon(s->m);
    struct fy_machine_times t;
    ferry__stats_reply__init(r);
    r->devices = a->device_list;
    const struct fy_device *d;
    for (unsigned i = 0; (d = fy_machine_nth_device(s->m, i)) && r->n_devices < FY_DEVICES_MAX; i++) {
        struct fy_dev_counters c;
        if (!d->ops->counters)
            continue;
        d->ops->counters(d->dev, &c);
        Ferry__DeviceStats *o = &a->devices[r->n_devices];
        ferry__device_stats__init(o);
        o->id = (char *)(uintptr_t)d->id;
        o->type = (char *)(uintptr_t)d->ops->type;
        o->requests = c.requests;
        o->from_guest = c.from_guest;
        o->to_guest = c.to_guest;
        a->device_list[r->n_devices++] = o;
    }
    fy_machine_times(s->m, &t);
    r->memory_resident = t.resident;
    if (balloon) {
        struct fy_balloon_status b;
        fy_balloon_status(balloon, &b);
        r->balloon = b.actual;
        r->reported = b.reported;
    }
    a->resp.op_case = FERRY__RESPONSE__OP_STATS;
    a->resp.stats = r;
    return 0;
}

int fy_op_vsock_answer(struct fy_server *s, uint64_t id, const int *fds, int nfds, struct fy_answer *a,
                       struct fy_err *e)
{
    struct fy_virtio *vsock = fy_machine_vsock(s->m);
    if (!vsock)
        return fy_fail(e, FY_EUNSUPPORTED, "this guest has no socket device");
    int fd = nfds > 0 ? fy_dup(fds[0]) : -1;
    if (nfds > 0 && fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot keep the connection's socket");
    fy_vsock_answer(vsock, id, fd);
    ferry__empty__init(&a->u.empty);
    a->resp.op_case = FERRY__RESPONSE__OP_EMPTY;
    a->resp.empty = &a->u.empty;
    return 0;
}
