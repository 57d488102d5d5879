// SPDX-License-Identifier: Apache-2.0
/* The virtio core against a driver: split and packed rings, direct and indirect, with and without event
 * index, requests given back out of order, state saved and loaded in between; and drivers that break the
 * rules. */
#include "tests/unit/virtio_driver.h"

#define SLOT 9
#define ECHO_QUEUES 2
#define ECHO_SIZE 64

/* Answers each request with the bytes that came, added to 1, and gives requests back in odd orders. */
struct echo {
    struct fy_virtio *v;
    struct fy_vq_chain held[ECHO_QUEUES][ECHO_SIZE];
    unsigned count[ECHO_QUEUES];
    uint64_t seed;
    bool eager; /* give everything back at once */
};

static uint64_t rnd(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed >> 8;
}

static void give_back(struct echo *o, unsigned n, unsigned i)
{
    struct fy_vq_chain *c = &o->held[n][i];
    uint8_t buf[4096];
    uint64_t len = fy_vq_fetch(c, 0, buf, sizeof buf);
    for (uint64_t k = 0; k < len; k++)
        buf[k]++;
    uint32_t written = (uint32_t)fy_vq_store(c, 0, buf, len);
    fy_vq_put(fy_virtio_queue(o->v, n), c, written);
    *c = o->held[n][--o->count[n]];
}

static void echo_kick(void *dev, unsigned n)
{
    struct echo *o = dev;
    struct fy_vq *q = fy_virtio_queue(o->v, n);
    fy_vq_disable_kicks(q);
    for (;;) {
        if (o->count[n] == ECHO_SIZE)
            break;
        int got = fy_vq_pop(q, &o->held[n][o->count[n]]);
        if (got == FY_VQ_GOT) {
            if (rnd(&o->seed) % 7 == 0) {
                fy_vq_unpop(q, &o->held[n][o->count[n]]);
                continue;
            }
            o->count[n]++;
        } else if (got == FY_VQ_BROKEN || !fy_vq_enable_kicks(q)) {
            break;
        }
    }
    for (unsigned k = 0; o->count[n] && (o->eager || k < 1 + rnd(&o->seed) % 5); k++)
        give_back(o, n, (unsigned)(rnd(&o->seed) % o->count[n]));
    if (o->count[n])
        fy_virtio_again(o->v, n);
    fy_virtio_notify(o->v, n);
}

static void echo_drain(void *dev)
{
    struct echo *o = dev;
    for (unsigned n = 0; n < ECHO_QUEUES; n++) {
        while (o->count[n])
            give_back(o, n, 0);
        fy_virtio_notify(o->v, n);
    }
}

static void echo_config(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    (void)dev;
    for (uint32_t i = 0; i < len; i++)
        buf[i] = (uint8_t)(offset + i);
}

static void echo_activate(void *dev, uint64_t features)
{
    (void)dev;
    (void)features;
}

static void echo_reset(void *dev)
{
    struct echo *o = dev;
    assert_int_equal(o->count[0] + o->count[1], 0);
}

static const struct fy_virtio_type echo_type = {.type = "echo",
                                                .version = 1,
                                                .device_id = FY_VIRTIO_CONSOLE,
                                                .pci_class = 0x078000,
                                                .config_read = echo_config,
                                                .activate = echo_activate,
                                                .kick = echo_kick,
                                                .drain = echo_drain,
                                                .reset = echo_reset,
                                                .free = free};

struct world {
    struct drv d;
    struct fy_iothread *io;
    struct echo *echo;
};

static void make_echo(struct world *w, bool eager)
{
    struct fy_err e = {0};
    struct fy_virtio_config c = {.id = "echo",
                                 .slot = SLOT,
                                 .features = 1u << 5,
                                 .queues = ECHO_QUEUES,
                                 .queue_size = ECHO_SIZE,
                                 .config_bytes = 16,
                                 .io = w->io};
    w->echo = calloc(1, sizeof *w->echo);
    w->echo->seed = 88172645463325252ull;
    w->echo->eager = eager;
    if (fy_virtio_new(w->d.pci, w->d.gmem, &echo_type, &c, w->echo, &w->echo->v, &w->d.dev, &e) < 0)
        fail_msg("%s", e.text);
}

static void world_init(struct world *w, bool eager)
{
    struct fy_err e = {0};
    drv_init(&w->d);
    w->io = fy_iothread_new("test", &e);
    assert_non_null(w->io);
    make_echo(w, eager);
    w->d.dev.ops->resume(w->d.dev.dev);
    drv_find(&w->d, SLOT);
}

static void world_done(struct world *w)
{
    drv_done(&w->d);
    fy_iothread_free(w->io);
}

/* What a request was sent with, to be compared with what comes back. */
struct sent {
    uint32_t out_len, in_len;
    uint8_t first;
};

static void send_one(struct world *w, unsigned queue, struct sent *sent, uint64_t *seed)
{
    struct drv *d = &w->d;
    unsigned outs = 1 + (unsigned)(rnd(seed) % 3), ins = 1 + (unsigned)(rnd(seed) % 2);
    bool indirect = d->indirect && rnd(seed) % 2;
    if (!drv_room(d, queue, outs + ins, indirect) || !d->q[queue].ids || d->q[queue].ids < outs + ins)
        return;
    uint16_t id = d->q[queue].order[d->q[queue].ids - 1];
    uint64_t base = DRV_DATA + ((uint64_t)queue * DRV_SIZE_MAX + id) * 2048;
    struct drv_seg s[5];
    struct sent *t = &sent[queue * DRV_SIZE_MAX + id];
    *t = (struct sent){.first = (uint8_t)rnd(seed)};
    for (unsigned i = 0; i < outs; i++) {
        s[i] = (struct drv_seg){base + i * 256, 1 + (uint32_t)(rnd(seed) % 200), false};
        for (uint32_t k = 0; k < s[i].len; k++)
            *drv_at(d, s[i].gpa + k) = (uint8_t)(t->first + t->out_len++);
    }
    for (unsigned i = 0; i < ins; i++) {
        s[outs + i] = (struct drv_seg){base + 1024 + i * 512, 1 + (uint32_t)(rnd(seed) % 400), true};
        t->in_len += s[outs + i].len;
        memset(drv_at(d, s[outs + i].gpa), 0xee, 512);
    }
    assert_int_equal(drv_add(d, queue, s, outs + ins, indirect), id);
    /* Where the in bytes are: its two pieces' lengths. */
    fy_put32(drv_at(d, base + 1024 - 8), s[outs].len);
    fy_put32(drv_at(d, base + 1024 - 4), ins > 1 ? s[outs + 1].len : 0);
}

static void check_one(struct world *w, unsigned queue, const struct sent *sent, uint16_t id, uint32_t len)
{
    const struct sent *t = &sent[queue * DRV_SIZE_MAX + id];
    uint64_t base = DRV_DATA + ((uint64_t)queue * DRV_SIZE_MAX + id) * 2048 + 1024;
    uint32_t first = fy_get32(drv_at(&w->d, base - 8));
    assert_int_equal(len, FY_MIN(t->out_len, t->in_len));
    for (uint32_t k = 0; k < len; k++) {
        uint64_t at = k < first ? base + k : base + 512 + (k - first);
        assert_int_equal(*drv_at(&w->d, at), (uint8_t)(t->first + k + 1));
    }
}

static void save_and_load(struct world *w)
{
    uint8_t *buf;
    size_t len;
    struct fy_err e = {0};
    struct fy_device *dev = &w->d.dev;
    dev->ops->pause(dev->dev);
    if (dev->ops->save(dev->dev, &buf, &len, &e) < 0)
        fail_msg("%s", e.text);
    dev->ops->reset(dev->dev);
    if (dev->ops->load(dev->dev, buf, len, &e) < 0)
        fail_msg("%s", e.text);
    free(buf);
    dev->ops->resume(dev->dev);
}

static void exchange(uint64_t features)
{
    struct world w;
    struct sent *sent = calloc((size_t)DRV_QUEUES * DRV_SIZE_MAX, sizeof *sent);
    uint64_t seed = 0x123456789abcdefull ^ features;
    unsigned open[ECHO_QUEUES] = {0}, done = 0;
    world_init(&w, false);
    drv_start(&w.d, features, ECHO_QUEUES, features & FY_VIRTIO_F_RING_PACKED ? 61 : 64);
    while (done < 6000) {
        unsigned q = (unsigned)(rnd(&seed) % ECHO_QUEUES);
        unsigned before = w.d.q[q].free_count;
        for (unsigned n = 1 + (unsigned)(rnd(&seed) % 9); n; n--) {
            uint16_t free_count = w.d.q[q].free_count;
            send_one(&w, q, sent, &seed);
            open[q] += w.d.q[q].free_count != free_count;
        }
        if (w.d.q[q].free_count != before)
            drv_kick(&w.d, q);
        for (unsigned n = (unsigned)(rnd(&seed) % (open[q] + 1)); n; n--) {
            uint32_t len;
            uint16_t id = drv_wait(&w.d, q, &len);
            check_one(&w, q, sent, id, len);
            open[q]--;
            done++;
        }
        if (rnd(&seed) % 64 == 0)
            save_and_load(&w);
    }
    for (unsigned q = 0; q < ECHO_QUEUES; q++)
        for (; open[q]; open[q]--) {
            uint32_t len;
            uint16_t id = drv_wait(&w.d, q, &len);
            check_one(&w, q, sent, id, len);
        }
    assert_int_equal(drv_read(&w.d, 20, 1) & 64, 0);
    assert_true(w.d.marked > 0);
    world_done(&w);
    free(sent);
}

static void split_plain(void **state)
{
    (void)state;
    exchange(0);
}

static void split_all(void **state)
{
    (void)state;
    exchange(FY_VIRTIO_F_INDIRECT_DESC | FY_VIRTIO_F_EVENT_IDX);
}

static void packed_plain(void **state)
{
    (void)state;
    exchange(FY_VIRTIO_F_RING_PACKED);
}

static void packed_all(void **state)
{
    (void)state;
    exchange(FY_VIRTIO_F_RING_PACKED | FY_VIRTIO_F_INDIRECT_DESC | FY_VIRTIO_F_EVENT_IDX);
}

static void negotiation(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, true);
    struct drv *d = &w.d;
    uint64_t offered = drv_offered(d);
    assert_int_equal(offered, FY_VIRTIO_RING_FEATURES | 1u << 5);
    assert_int_equal(drv_read(d, 18, 2), ECHO_QUEUES);
    assert_int_equal(drv_device(d, 4, 4), 0x07060504);
    assert_int_equal(drv_device(d, 14, 4), 0); /* past its end */
    /* Without VERSION_1, or with what is not offered, FEATURES_OK does not stick. */
    drv_write(d, 20, 1, 3);
    drv_write(d, 20, 1, 3 | 8);
    assert_int_equal(drv_read(d, 20, 1), 3);
    drv_write(d, 8, 4, 1);
    drv_write(d, 12, 4, 3);
    drv_write(d, 20, 1, 3 | 8);
    assert_int_equal(drv_read(d, 20, 1), 3);
    /* DRIVER_OK before FEATURES_OK does nothing. */
    drv_write(d, 20, 1, 7);
    assert_int_equal(drv_read(d, 20, 1) & 4, 0);
    /* A queue that is none. */
    drv_write(d, 22, 2, ECHO_QUEUES);
    assert_int_equal(drv_read(d, 24, 2), 0);
    drv_write(d, 28, 2, 1);
    world_done(&w);
}

/* A queue whose rings are not in RAM. */
static void rings_outside(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, true);
    struct drv *d = &w.d;
    for (int area = 0; area < 3; area++) {
        drv_start(d, 0, 1, 16);
        drv_write(d, 20, 1, 0);
        drv_write(d, 20, 1, 3);
        drv_write(d, 8, 4, 1);
        drv_write(d, 12, 4, 1);
        drv_write(d, 20, 1, 11);
        drv_write(d, 22, 2, 0);
        drv_write(d, 24, 2, 16);
        for (int i = 0; i < 3; i++)
            drv_write(d, 32 + 8 * (unsigned)i, 8,
                      i == area ? DRV_MEMORY - 8 : DRV_RINGS + 0x4000u * (unsigned)i);
        drv_write(d, 28, 2, 1);
        drv_write(d, 20, 1, 15);
        assert_int_equal(drv_read(d, 20, 1) & 64, 64);
        drv_kick(d, 0);
    }
    drv_start(d, 0, 2, 16); /* a reset mends it */
    struct drv_seg s[2] = {{DRV_DATA, 4, false}, {DRV_DATA + 64, 4, true}};
    assert_int_equal(drv_do(d, 1, s, 2), 4);
    world_done(&w);
}

static void broken_split(struct drv *d, int how)
{
    struct drv_queue *q = &d->q[0];
    uint16_t id = 1;
    drv_put_desc(d, q->desc, DRV_DATA, 8, 1, 1);
    drv_put_desc(d, q->desc + 16, DRV_DATA, 8, 2, 0);
    switch (how) {
    case 0: /* a loop */
        drv_put_desc(d, q->desc + 16, DRV_DATA, 8, 1, 0);
        id = 0;
        break;
    case 1: /* next out of the table */
        drv_put_desc(d, q->desc + 16, DRV_DATA, 8, 1, 16);
        break;
    case 2: /* no such descriptor */
        id = 16;
        break;
    case 3: /* a buffer outside of RAM */
        drv_put_desc(d, q->desc + 16, DRV_MEMORY - 4, 8, 2, 0);
        break;
    case 4: /* readable behind writable */
        drv_put_desc(d, q->desc, DRV_DATA, 8, 3, 1);
        drv_put_desc(d, q->desc + 16, DRV_DATA, 8, 0, 0);
        id = 0;
        break;
    case 5: /* an indirect table of half a descriptor */
        drv_put_desc(d, q->desc + 16, DRV_TABLES, 24, 4, 0);
        break;
    case 6: /* a table in a table */
        drv_put_desc(d, q->desc + 16, DRV_TABLES, 16, 4, 0);
        drv_put_desc(d, DRV_TABLES, DRV_TABLES, 16, 4, 0);
        break;
    default: /* more available than the ring holds */
        q->next = (uint16_t)(q->next + 40);
        break;
    }
    drv_store16(d, q->driver + 4 + 2 * (uint64_t)(q->next % q->size), id);
    drv_store16(d, q->driver + 2, (uint16_t)(q->next + 1));
}

static void broken_drivers(void **state)
{
    (void)state;
    struct world w;
    world_init(&w, true);
    struct drv *d = &w.d;
    struct drv_seg s[2] = {{DRV_DATA, 4, false}, {DRV_DATA + 64, 4, true}};
    for (int how = 0; how < 8; how++) {
        drv_start(d, FY_VIRTIO_F_INDIRECT_DESC, 2, 16);
        assert_int_equal(drv_do(d, 0, s, 2), 4);
        broken_split(d, how);
        drv_kick(d, 0);
        drv_await_broken(d);
        save_and_load(&w); /* it may move while it is broken */
        assert_int_equal(drv_read(d, 20, 1) & 64, 64);
    }
    /* Packed: a chain longer than the ring, a buffer outside of RAM, an indirect descriptor in a chain. */
    for (int how = 0; how < 3; how++) {
        drv_start(d, FY_VIRTIO_F_INDIRECT_DESC | FY_VIRTIO_F_RING_PACKED, 1, 16);
        assert_int_equal(drv_do(d, 0, s, 1), 0);
        struct drv_queue *q = &d->q[0];
        for (unsigned i = 0; i < 16; i++) {
            unsigned at = (q->next + i) % 16;
            bool wrap = (q->next + i < 16) == q->wrap;
            uint16_t avail = (uint16_t)(wrap ? 0x80 : 0x8000);
            uint16_t flags = (uint16_t)(how == 2 && i == 1 ? 4 : 1);
            drv_put_desc(d, q->desc + 16 * at, how == 1 ? DRV_MEMORY : DRV_DATA, 16, 0,
                         (uint16_t)(avail | flags));
        }
        drv_kick(d, 0);
        drv_await_broken(d);
    }
    world_done(&w);
}

/* Every cut and flipped bit of a saved state is refused, or loads to something that saves again. */
static void states(void **state)
{
    (void)state;
    for (int packed = 0; packed < 2; packed++) {
        struct world w;
        world_init(&w, true);
        drv_start(&w.d, packed ? FY_VIRTIO_F_RING_PACKED : FY_VIRTIO_F_EVENT_IDX, 2, 16);
        struct drv_seg s[2] = {{DRV_DATA, 4, false}, {DRV_DATA + 64, 4, true}};
        assert_int_equal(drv_do(&w.d, 1, s, 2), 4);
        w.d.dev.ops->pause(w.d.dev.dev);
        w.d.f.dev = w.d.dev;
        fx_mutate(&w.d.f);
        w.d.f.dev = (struct fy_device){0};
        w.d.dev.ops->resume(w.d.dev.dev);
        assert_int_equal(drv_do(&w.d, 1, s, 2), 4);
        world_done(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(negotiation),    cmocka_unit_test(split_plain), cmocka_unit_test(split_all),
        cmocka_unit_test(packed_plain),   cmocka_unit_test(packed_all),  cmocka_unit_test(rings_outside),
        cmocka_unit_test(broken_drivers), cmocka_unit_test(states),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
