// SPDX-License-Identifier: Apache-2.0
/* A machine's disks: made with it, given their files when it is to run, and locked while it may. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "hv/backend/file.h"
#include "hv/backend/remote.h"
#include "hv/base/io.h"
#include "hv/dev/virtio_blk.h"
#include "hv/vm/internal.h"

#define HOLD_DEFAULT_S 60u

static bool name_ok(const char *name)
{
    size_t n = strlen(name);
    for (size_t i = 0; i < n; i++)
        if (name[i] <= ' ' || name[i] > '~')
            return false;
    return n > 0 && n <= FY_BLK_SERIAL_MAX;
}

static void check_disk(const Ferry__Machine *d, size_t i, struct fy_err *why)
{
    const Ferry__Disk *k = d->disks[i];
    if (!name_ok(k->name))
        fy_reason_add(why, FY_EREFUSED, "disk %zu: a name has 1 to %d printable characters", i,
                      FY_BLK_SERIAL_MAX);
    for (size_t o = 0; o < i; o++)
        if (!strcmp(d->disks[o]->name, k->name))
            fy_reason_add(why, FY_EREFUSED, "two disks are named %.20s", k->name);
    if (strcmp(k->format, "raw") != 0 && strcmp(k->format, "qcow2") != 0)
        fy_reason_add(why, FY_EREFUSED, "disk %.20s: format \"%.20s\" is not known here (raw, qcow2)",
                      k->name, k->format);
    if (strcmp(k->cache, "writeback") != 0 && strcmp(k->cache, "none") != 0)
        fy_reason_add(why, FY_EREFUSED, "disk %.20s: cache \"%.20s\" is not known here (writeback or none)",
                      k->name, k->cache);
    if (k->queues < 1 || k->queues > FY_BLK_QUEUES_MAX)
        fy_reason_add(why, FY_EREFUSED, "disk %.20s: %u queues (1 to %d)", k->name, k->queues,
                      FY_BLK_QUEUES_MAX);
    if (!k->bytes || k->bytes % FY_BLOCK_SECTOR || k->bytes > INT64_MAX)
        fy_reason_add(why, FY_EREFUSED, "disk %.20s: %llu bytes: a disk has a multiple of %u, and some",
                      k->name, (unsigned long long)k->bytes, FY_BLOCK_SECTOR);
}

void fy_machine_check_disks(const Ferry__Machine *d, struct fy_err *why)
{
    if (d->n_disks > FY_DISKS_MAX)
        fy_reason_add(why, FY_EREFUSED, "%zu disks (at most %d)", d->n_disks, FY_DISKS_MAX);
    for (size_t i = 0; i < d->n_disks && i < FY_DISKS_MAX; i++)
        check_disk(d, i, why);
}

int fy_machine_make_disks(struct fy_machine *m, struct fy_err *e)
{
    for (size_t i = 0; i < m->desc->n_disks; i++) {
        const Ferry__Disk *k = m->desc->disks[i];
        char id[32];
        snprintf(id, sizeof id, "disk%zu", i);
        struct fy_blk_config c = {
            .id = id,
            .serial = k->name,
            .slot = FY_SLOT_DISK0 + (unsigned)i,
            .queues = k->queues,
            .bytes = k->bytes,
            .read_only = k->read_only,
            .gate = m->gate,
        };
        struct fy_device *d = &m->devices[m->device_count];
        if (fy_virtio_blk_new(m->pci, m->gmem, &c, d, e) < 0)
            return -1;
        m->device_count++;
        m->disks[m->disk_count++] = d;
    }
    return 0;
}

static void close_all(const int *fds, unsigned from, unsigned count)
{
    for (unsigned i = from; i < count; i++) {
        int fd = fds[i];
        fy_close(&fd);
    }
}

/* Is it a ferry-blk that serves it? */
static bool is_remote(const Ferry__Disk *k)
{
    return strcmp(k->format, "raw") != 0 || strncmp(k->source, "nbd", 3) == 0;
}

static struct fy_block *open_one(struct fy_machine *m, const Ferry__Disk *k, int fd, struct fy_err *e)
{
    char name[160];
    snprintf(name, sizeof name, "disk %s (%s)", k->name, k->source);
    if (is_remote(k)) {
        struct fy_remote_config c = {.name = name,
                                     .bytes = k->bytes,
                                     .read_only = k->read_only,
                                     .hold_ns = (k->hold_s ? k->hold_s : HOLD_DEFAULT_S) * 1000000000ull,
                                     .gmem = m->gmem,
                                     .lost = m->disk_lost,
                                     .arg = m->arg};
        return fy_remote_new(fd, &c, e);
    }
    struct fy_file_config c = {.name = name, .read_only = k->read_only};
    struct fy_block *b = fy_file_open(fd, &c, e);
    if (b && b->bytes != k->bytes) {
        fy_fail(e, FY_EREFUSED, "%s has %llu bytes here, the guest's disk %llu", name,
                (unsigned long long)b->bytes, (unsigned long long)k->bytes);
        b->ops->free(b);
        b = NULL;
    }
    return b;
}

/* Open, and so lock, all of them before any device has one. Servers are asked all at once, then waited for.
 */
static int open_all(struct fy_machine *m, const int *fds, struct fy_block **blocks, struct fy_err *e)
{
    for (unsigned i = 0; i < m->disk_count; i++) {
        blocks[i] = open_one(m, m->desc->disks[i], fds[i], e);
        if (blocks[i])
            continue;
        close_all(fds, i + 1, m->disk_count);
        return -1;
    }
    for (unsigned i = 0; i < m->disk_count; i++)
        if (blocks[i]->ops->take(blocks[i], e) < 0)
            return -1;
    return 0;
}

int fy_machine_take_disks(struct fy_machine *m, const int *fds, unsigned count, struct fy_err *e)
{
    struct fy_block *blocks[FY_DISKS_MAX] = {NULL};
    if (m->disk_count && fy_virtio_blk_backend(m->disks[0])) {
        close_all(fds, 0, count);
        return 0;
    }
    if (count != m->disk_count) {
        close_all(fds, 0, count);
        return fy_fail(e, FY_EUSAGE, "the machine has %u disks, %u came", m->disk_count, count);
    }
    int r = open_all(m, fds, blocks, e);
    for (unsigned i = 0; r == 0 && i < count; i++) {
        r = fy_virtio_blk_attach(m->disks[i], blocks[i], e);
        blocks[i] = NULL;
    }
    for (unsigned i = 0; i < count; i++)
        if (blocks[i])
            blocks[i]->ops->free(blocks[i]);
    return r;
}

static int take(struct fy_block *b, void *arg, struct fy_err *e)
{
    (void)arg;
    return b->ops->take(b, e);
}

int fy_machine_lock_disks(struct fy_machine *m, struct fy_err *e)
{
    for (unsigned i = 0; i < m->disk_count; i++)
        if (fy_virtio_blk_with(m->disks[i], take, NULL, e) < 0)
            return -1;
    return 0;
}

static int give_up(struct fy_block *b, void *arg, struct fy_err *e)
{
    (void)arg;
    return b->ops->give_up(b, e);
}

int fy_machine_release_disks(struct fy_machine *m, struct fy_err *e)
{
    for (unsigned i = 0; i < m->disk_count; i++)
        if (fy_virtio_blk_with(m->disks[i], give_up, NULL, e) < 0)
            return -1;
    return 0;
}

static int ready(struct fy_block *b, void *arg, struct fy_err *e)
{
    const Ferry__Disk *k = arg;
    struct fy_remote_status s;
    if (fy_remote_status(b, &s) && s.waits)
        return fy_fail(e, FY_ESTATE, "disk %s (%s): %u requests wait for its server, and would be lost: %s",
                       k->name, k->source, s.waits, *s.why ? s.why : "it does not answer");
    return 0;
}

int fy_machine_disks_quiet(struct fy_machine *m, struct fy_err *e)
{
    for (unsigned i = 0; i < m->disk_count; i++)
        if (fy_virtio_blk_with(m->disks[i], ready, m->desc->disks[i], e) < 0)
            return -1;
    return 0;
}

static int attach(struct fy_block *b, void *arg, struct fy_err *e)
{
    struct fy_remote_status s;
    int *fd = arg;
    if (!fy_remote_status(b, &s))
        return fy_fail(e, FY_EUSAGE, "this disk is a file");
    int sock = *fd;
    *fd = -1;
    return fy_remote_attach(b, sock, e);
}

int fy_machine_attach_disk(struct fy_machine *m, unsigned i, int sock, struct fy_err *e)
{
    int r = i < m->disk_count ? fy_virtio_blk_with(m->disks[i], attach, &sock, e)
                              : fy_fail(e, FY_ENOTFOUND, "this guest has no disk%u", i);
    fy_close(&sock);
    return r;
}

static int status(struct fy_block *b, void *arg, struct fy_err *e)
{
    struct fy_machine_disk *s = arg;
    struct fy_remote_status r;
    (void)e;
    if (!fy_remote_status(b, &r))
        return 0;
    *s = (struct fy_machine_disk){.served = true, .process = r.process, .up = r.up, .waits = r.waits};
    snprintf(s->why, sizeof s->why, "%s", r.up ? "" : r.why);
    return 0;
}

bool fy_machine_disk_status(struct fy_machine *m, unsigned i, struct fy_machine_disk *s)
{
    *s = (struct fy_machine_disk){.up = true};
    if (i >= m->disk_count)
        return false;
    s->id = m->disks[i]->id;
    const char *id = s->id;
    fy_virtio_blk_with(m->disks[i], status, s, NULL);
    s->id = id;
    return true;
}

void fy_machine_write_back(struct fy_machine *m)
{
    for (unsigned i = 0; i < m->disk_count; i++)
        fy_virtio_blk_write_back(m->disks[i]);
}

bool fy_machine_has_disks(const struct fy_machine *m)
{
    return m->disk_count > 0;
}
