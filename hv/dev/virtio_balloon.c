// SPDX-License-Identifier: Apache-2.0
/* Memory balloon (virtio 1.2, 5.5) with statistics, deflation when the guest is short of memory, and free
 * page reporting. Pages that the guest gives up become holes of the memfd: the host has them back, and they
 * read as zero. A hole counts as a write (log-dirty). Pages of 2 MiB (hugetlb) stay where they are. */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/state.h"
#include "hv/dev/virtio_devices.h"
#include "proto/wire.h"

#define CLASS_BALLOON 0x058000u
#define F_STATS (1ull << 1)
#define F_DEFLATE_ON_OOM (1ull << 2)
#define F_REPORTING (1ull << 5)

enum { Q_INFLATE, Q_DEFLATE, Q_STATS, Q_REPORTING, QUEUES };

#define CONFIG_BYTES 8 /* num_pages, actual */
/* The device's lock is held for a turn, and a pause waits for it: some milliseconds at most. */
#define REQUESTS_A_TURN 4u
#define PFNS_AT_ONCE 256u
#define PFNS_A_REQUEST 1024u /* Linux sends 256; what is beyond stays with the guest */
#define STAT_BYTES 10u       /* u16 tag, u64 value, packed */

struct balloon {
    struct fy_virtio *v;
    struct fy_gmem *gmem;
    uint32_t target, actual; /* in 4 KiB pages */
    uint64_t reported;       /* bytes given back by free page reporting, since the start here */
    uint64_t stats[FY_BALLOON_STATS];
    bool stats_known, stats_held; /* the driver's buffer waits here for the next question */
    struct fy_vq_chain stats_chain;
};

static void give_up(struct balloon *b, uint64_t gpa, uint64_t len)
{
    const uint8_t *host = fy_gmem_at(b->gmem, gpa, len);
    if (!host || !len)
        return;
    uint64_t offset = (uint64_t)(host - b->gmem->host);
    if (fallocate(b->gmem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)offset, (off_t)len) == 0)
        fy_gmem_mark(b->gmem, gpa, len);
}

/* Page numbers, neighbours in one go. */
static void inflate(struct balloon *b, const struct fy_vq_chain *c)
{
    uint32_t pfn[PFNS_AT_ONCE];
    uint64_t at = 0, n, first = 0, count = 0;
    while (at < 4 * PFNS_A_REQUEST && (n = fy_vq_fetch(c, at, pfn, sizeof pfn) / 4) > 0) {
        at += 4 * n;
        for (uint64_t i = 0; i < n; i++) {
            if (count && pfn[i] == first + count) {
                count++;
                continue;
            }
            if (count && pfn[i] + 1ull == first) {
                first--;
                count++;
                continue;
            }
            give_up(b, first * FY_PAGE_SIZE, count * FY_PAGE_SIZE);
            first = pfn[i];
            count = 1;
        }
    }
    give_up(b, first * FY_PAGE_SIZE, count * FY_PAGE_SIZE);
}

static void report(struct balloon *b, const struct fy_vq_chain *c)
{
    for (unsigned i = c->out; i < (unsigned)c->out + c->in; i++) {
        uint64_t from = FY_ALIGN_UP(c->seg[i].gpa, FY_PAGE_SIZE);
        uint64_t to = (c->seg[i].gpa + c->seg[i].len) / FY_PAGE_SIZE * FY_PAGE_SIZE;
        if (from >= to)
            continue;
        give_up(b, from, to - from);
        b->reported += to - from;
    }
}

static void take_stats(struct balloon *b)
{
    uint8_t s[STAT_BYTES];
    for (unsigned i = 0; fy_vq_fetch(&b->stats_chain, (uint64_t)i * STAT_BYTES, s, sizeof s) == sizeof s;
         i++) {
        unsigned tag = fy_get16(s);
        if (tag < FY_BALLOON_STATS)
            b->stats[tag] = fy_get64(s + 2);
        if (i > 4 * FY_BALLOON_STATS)
            break;
    }
    b->stats_known = true;
}

static void kick_stats(struct balloon *b)
{
    struct fy_vq *q = fy_virtio_queue(b->v, Q_STATS);
    if (b->stats_held || fy_vq_pop(q, &b->stats_chain) != FY_VQ_GOT)
        return;
    b->stats_held = true;
    take_stats(b);
    fy_vq_enable_kicks(q);
}

static void balloon_kick(void *dev, unsigned n)
{
    struct balloon *b = dev;
    struct fy_vq *q = fy_virtio_queue(b->v, n);
    struct fy_vq_chain c;
    if (n == Q_STATS) {
        kick_stats(b);
        return;
    }
    unsigned turn = 0;
    while (turn < REQUESTS_A_TURN) {
        int got = fy_vq_pop(q, &c);
        if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (got != FY_VQ_GOT)
            break;
        if (n == Q_INFLATE)
            inflate(b, &c);
        else if (n == Q_REPORTING)
            report(b, &c);
        fy_vq_put(q, &c, 0);
        turn++;
    }
    fy_virtio_notify(b->v, n);
    if (turn == REQUESTS_A_TURN)
        fy_virtio_again(b->v, n);
}

/* The waiting buffer goes back to where it came from: it is the only one of its queue. */
static void balloon_drain(void *dev)
{
    struct balloon *b = dev;
    if (b->stats_held)
        fy_vq_unpop(fy_virtio_queue(b->v, Q_STATS), &b->stats_chain);
    b->stats_held = false;
}

static void balloon_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static void balloon_config_read(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    const struct balloon *b = dev;
    uint8_t c[CONFIG_BYTES];
    fy_put32(c, b->target);
    fy_put32(c + 4, b->actual);
    memcpy(buf, c + offset, len);
}

static void balloon_config_write(void *dev, uint32_t offset, const uint8_t *buf, uint32_t len)
{
    struct balloon *b = dev;
    if (offset == 4 && len == 4)
        b->actual = fy_get32(buf);
}

static void balloon_reset(void *dev)
{
    struct balloon *b = dev;
    b->actual = 0;
    b->stats_known = b->stats_held = false;
}

static int balloon_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    const struct balloon *b = dev;
    Ferry__VirtioBalloon m = FERRY__VIRTIO_BALLOON__INIT;
    m.target_pages = b->target;
    m.actual_pages = b->actual;
    return fy_state_pack(&m.base, buf, len, e);
}

static int balloon_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct balloon *b = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__virtio_balloon__descriptor, "balloon", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__VirtioBalloon *m = (const Ferry__VirtioBalloon *)msg;
    int r = 0;
    if (m->target_pages > b->gmem->bytes / FY_PAGE_SIZE)
        r = fy_fail(e, FY_ECORRUPT, "balloon: a target of %u pages is more than the guest has",
                    m->target_pages);
    if (r == 0) {
        b->target = m->target_pages;
        b->actual = m->actual_pages;
        b->stats_known = b->stats_held = false;
    }
    protobuf_c_message_free_unpacked(msg, NULL);
    return r;
}

static void balloon_free(void *dev)
{
    free(dev);
}

static const struct fy_virtio_type balloon_type = {
    .type = "virtio-balloon",
    .version = 1,
    .device_id = FY_VIRTIO_BALLOON,
    .pci_class = CLASS_BALLOON,
    .config_read = balloon_config_read,
    .config_write = balloon_config_write,
    .activate = balloon_activate,
    .kick = balloon_kick,
    .drain = balloon_drain,
    .reset = balloon_reset,
    .save = balloon_save,
    .load = balloon_load,
    .free = balloon_free,
};

int fy_virtio_balloon_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                          struct fy_virtio **v, struct fy_device *out, struct fy_err *e)
{
    struct balloon *b = calloc(1, sizeof *b);
    if (!b)
        return fy_fail(e, FY_ERESOURCE, "no memory for the balloon");
    b->gmem = gmem;
    struct fy_virtio_config c = {.id = "balloon",
                                 .slot = slot,
                                 .features = F_STATS | F_DEFLATE_ON_OOM | F_REPORTING,
                                 .queues = QUEUES,
                                 .queue_size = 128,
                                 .config_bytes = CONFIG_BYTES,
                                 .io = io};
    int r = fy_virtio_new(pci, gmem, &balloon_type, &c, b, v, out, e);
    if (r == 0)
        b->v = *v;
    return r;
}

void fy_balloon_set_target(struct fy_virtio *v, uint64_t bytes)
{
    struct balloon *b = fy_virtio_dev(v);
    fy_virtio_enter(v);
    b->target = (uint32_t)(FY_MIN(bytes, b->gmem->bytes) / FY_PAGE_SIZE);
    fy_virtio_config_changed(v);
    fy_virtio_leave(v);
}

void fy_balloon_status(struct fy_virtio *v, struct fy_balloon_status *s)
{
    struct balloon *b = fy_virtio_dev(v);
    memset(s, 0, sizeof *s);
    bool works = fy_virtio_enter(v);
    s->target = (uint64_t)b->target * FY_PAGE_SIZE;
    s->actual = (uint64_t)b->actual * FY_PAGE_SIZE;
    s->reported = b->reported;
    s->stats_known = b->stats_known;
    memcpy(s->stats, b->stats, sizeof s->stats);
    /* Ask for newer ones: the driver fills its buffer anew when it gets it back. */
    if (works && b->stats_held) {
        b->stats_held = false;
        fy_vq_put(fy_virtio_queue(v, Q_STATS), &b->stats_chain, 0);
        fy_virtio_notify(v, Q_STATS);
    }
    fy_virtio_leave(v);
}
