// SPDX-License-Identifier: Apache-2.0
/* The block device, and the virtio core below it, under the fuzzer (virtio.h): register and configuration
 * accesses, bytes of guest memory (where the rings are too), requests, kicks, pauses and resets. Nothing may
 * be touched outside of the disk and of guest memory. */
#include <errno.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "hv/dev/virtio_blk.h"
#include "tests/fuzz/virtio.h"

#define SLOT 8
#define BYTES 65536u

struct store {
    struct fy_block b;
    struct fy_block_req *first;
    unsigned in_flight;
    uint8_t bytes[BYTES];
};

static void store_submit(struct fy_block *b, struct fy_block_req *r)
{
    struct store *s = (struct store *)b;
    MUST(r->offset <= BYTES && r->bytes <= BYTES - r->offset && s->in_flight < FY_BLOCK_DEPTH);
    r->next = s->first;
    s->first = r;
    s->in_flight++;
    eventfd_write(b->event_fd, 1);
}

static bool store_kick(struct fy_block *b)
{
    const struct store *s = (struct store *)b;
    return s->first && s->first->offset & 512; /* some end at once, others with the event */
}

static unsigned store_reap(struct fy_block *b, bool wait)
{
    struct store *s = (struct store *)b;
    struct fy_block_req *r;
    (void)wait;
    while ((r = s->first)) {
        uint64_t at = r->offset;
        s->first = r->next;
        s->in_flight--;
        for (unsigned i = 0; i < r->iov_count; at += r->iov[i++].iov_len) {
            MUST(at + r->iov[i].iov_len <= r->offset + r->bytes);
            if (r->op == FY_BLOCK_READ)
                memcpy(r->iov[i].iov_base, s->bytes + at, r->iov[i].iov_len);
            else if (r->op == FY_BLOCK_WRITE)
                memcpy(s->bytes + at, r->iov[i].iov_base, r->iov[i].iov_len);
        }
        r->done(r, r->offset == 512 ? EIO : 0);
    }
    return s->in_flight;
}

static void store_free(struct fy_block *b)
{
    MUST(((struct store *)b)->in_flight == 0);
    close(b->event_fd);
    free(b);
}

static void set_up(struct world *w, uint32_t op)
{
    world_queues(w, 1, op & 2 ? 0x30006244 : 0x30000000, op & 1);
}

static void make_disk(struct world *w, const struct world_ops *driver)
{
    static const struct fy_block_ops ops = {
        .submit = store_submit, .kick = store_kick, .reap = store_reap, .free = store_free};
    struct fy_err e = {0};
    world_init(w, driver);
    struct fy_blk_config c = {
        .id = "disk0", .serial = "fuzz", .slot = SLOT, .queues = 2, .bytes = BYTES, .gate = w->gate};
    MUST(fy_virtio_blk_new(w->pci, w->gmem, &c, &w->f.dev, &e) == 0);
    struct store *s = calloc(1, sizeof *s);
    MUST(s);
    s->b = (struct fy_block){.ops = &ops, .bytes = BYTES, .event_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)};
    MUST(fy_virtio_blk_attach(&w->f.dev, &s->b, &e) == 0);
}

/* A request of three descriptors at 0, as of a split ring. */
static void request(struct world *w, uint32_t op)
{
    uint64_t header = 0x20000;
    bool in = op & 1;
    world_poke(w, header, op >> 8 & 15, 4);
    world_poke(w, header + 8, op >> 12 & 255, 8);
    world_descriptor(w, 0, 0, 3, header, 16, false);
    world_descriptor(w, 0, 1, 3, header + 512, op >> 20 & 0xfff, in);
    world_descriptor(w, 0, 2, 3, header + 64, 1, true);
    world_available(w, 0);
}

const struct fuzz_loads fuzz_loads = {
    .counted = true, .kinds = 1, .kind = {{"blk", &ferry__virtio_device__descriptor, NULL}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const struct world_ops driver = {.slot = SLOT, .set_up = set_up, .request = request};
    struct world w;
    make_disk(&w, &driver);
    world_run(&w, data, size);
    world_settle(&w);
    world_free(&w);
    return 0;
}
