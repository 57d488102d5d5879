// SPDX-License-Identifier: Apache-2.0
/* The virtio console against a driver: output and input through its rings, held output holds the driver up
 * and loses nothing, its state travels in the middle of a buffer. */
#include "tests/unit/virtio_driver.h"

#include "hv/dev/virtio_devices.h"

#define SLOT FY_SLOT_CONSOLE
#define BIG 200000u

enum { Q_RX, Q_TX };

struct world {
    struct drv d;
    struct fy_iothread *io;
    struct fy_virtio *v;
    struct fy_gate *gate;
    struct fy_device console;
    pthread_mutex_t lock;
    uint8_t seen[2 * BIG];
    size_t count;
};

static void on_out(void *arg, const uint8_t *buf, size_t len)
{
    struct world *w = arg;
    pthread_mutex_lock(&w->lock);
    assert_true(w->count + len <= sizeof w->seen);
    memcpy(w->seen + w->count, buf, len);
    w->count += len;
    pthread_mutex_unlock(&w->lock);
}

static void on_room(void *arg)
{
    struct world *w = arg;
    fy_virtio_console_output_room(w->v);
}

static struct world *world_new(void)
{
    struct world *w = calloc(1, sizeof *w);
    struct fy_err e = {0};
    drv_init(&w->d);
    pthread_mutex_init(&w->lock, NULL);
    w->gate = fy_gate_new(&e);
    w->io = fy_iothread_new("test", &e);
    assert_non_null(w->io);
    const struct fy_console_config c = {.gate = w->gate, .arg = w, .out = on_out, .room = on_room};
    assert_int_equal(fy_console_new(&c, &w->console, NULL), 0);
    w->d.f.console = &w->console;
    if (fy_virtio_console_new(w->d.pci, w->d.gmem, w->io, SLOT, &w->v, &w->d.dev, &e) < 0)
        fail_msg("%s", e.text);
    w->d.dev.ops->resume(w->d.dev.dev);
    drv_find(&w->d, SLOT);
    return w;
}

static void world_free(struct world *w)
{
    fy_gate_discard(w->gate);
    drv_done(&w->d);
    w->console.ops->free(w->console.dev);
    fy_gate_free(w->gate);
    fy_iothread_free(w->io);
    pthread_mutex_destroy(&w->lock);
    free(w);
}

static uint8_t byte_at(size_t i)
{
    return (uint8_t)(i * 31 >> 4);
}

static void fill(struct world *w, uint32_t len)
{
    for (uint32_t i = 0; i < len; i++)
        *drv_at(&w->d, DRV_DATA + i) = byte_at(i);
}

static void expect_filled(struct world *w, size_t len)
{
    pthread_mutex_lock(&w->lock);
    assert_int_equal(w->count, len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(w->seen[i], byte_at(i));
    pthread_mutex_unlock(&w->lock);
}

static void output(void **state)
{
    (void)state;
    const uint64_t features[] = {0, FY_VIRTIO_F_RING_PACKED,
                                 FY_VIRTIO_F_EVENT_IDX | FY_VIRTIO_F_INDIRECT_DESC};
    for (unsigned i = 0; i < FY_ARRAY_LEN(features); i++) {
        struct world *w = world_new();
        assert_false(fy_virtio_console_ready(w->v));
        assert_int_equal(drv_device(&w->d, 4, 4), 1);
        drv_start(&w->d, features[i], 2, 16);
        assert_true(fy_virtio_console_ready(w->v));
        fill(w, BIG);
        /* Larger than a turn, in three pieces. */
        struct drv_seg s[3] = {
            {DRV_DATA, 5, false}, {DRV_DATA + 5, 100000, false}, {DRV_DATA + 100005, BIG - 100005, false}};
        assert_int_equal(drv_do(&w->d, Q_TX, s, 3), 0);
        expect_filled(w, BIG);
        assert_int_equal(drv_do(&w->d, Q_TX, s, 1), 0);
        assert_int_equal(w->count, BIG + 5);
        w->d.dev.ops->reset(w->d.dev.dev);
        assert_false(fy_virtio_console_ready(w->v));
        world_free(w);
    }
}

static void input(void **state)
{
    (void)state;
    struct world *w = world_new();
    static uint8_t typed[6000];
    uint32_t len;
    for (size_t i = 0; i < sizeof typed; i++)
        typed[i] = byte_at(i);
    drv_start(&w->d, 0, 2, 16);
    assert_int_equal(fy_virtio_console_input(w->v, typed, sizeof typed), 4096);
    assert_int_equal(fy_virtio_console_input_room(w->v), 0);
    struct drv_seg s[4] = {{DRV_DATA, 3, true},
                           {DRV_DATA + 0x1000, 2000, true},
                           {DRV_DATA + 0x2000, 2000, true},
                           {DRV_DATA + 0x3000, 2000, true}};
    for (unsigned i = 0; i < 4; i++)
        drv_add(&w->d, Q_RX, &s[i], 1, false);
    drv_kick(&w->d, Q_RX);
    size_t at = 0;
    for (unsigned i = 0; i < 4; i++) {
        drv_wait(&w->d, Q_RX, &len);
        assert_int_equal(len, i == 0 ? 3 : i == 3 ? 93 : 2000);
        assert_memory_equal(drv_at(&w->d, s[i].gpa), typed + at, len);
        at += len;
    }
    assert_int_equal(at, 4096);
    assert_int_equal(fy_virtio_console_input_room(w->v), 4096);
    assert_true(w->d.f.rooms > 0);
    /* Buffers first, then what is typed. */
    drv_add(&w->d, Q_RX, &s[1], 1, false);
    drv_kick(&w->d, Q_RX);
    assert_int_equal(fy_virtio_console_input(w->v, typed, 1), 1);
    drv_wait(&w->d, Q_RX, &len);
    assert_int_equal(len, 1);
    world_free(w);
}

static void emergency(void **state)
{
    (void)state;
    struct world *w = world_new();
    drv_write(&w->d, 0x2000 + 8, 4, '!');
    drv_write(&w->d, 0x2000, 4, '?'); /* not writable */
    assert_int_equal(w->count, 1);
    assert_int_equal(w->seen[0], '!');
    world_free(w);
}

/* Await that what the gate lets through is held and nothing more fits. */
static void await_full(struct world *w)
{
    while (fy_console_room(&w->console) >= FY_CONSOLE_LOW)
        sched_yield();
}

static void held(void **state)
{
    (void)state;
    struct world *w = world_new();
    struct fy_device *dev = &w->d.dev;
    uint8_t *buf;
    size_t len;
    uint32_t used;
    struct fy_err e = {0};
    drv_start(&w->d, 0, 2, 16);
    fill(w, BIG);
    fy_gate_hold(w->gate);
    struct drv_seg s = {DRV_DATA, BIG, false};
    drv_add(&w->d, Q_TX, &s, 1, false);
    drv_kick(&w->d, Q_TX);
    await_full(w);
    /* It may be saved and go on elsewhere in the middle of the buffer. */
    dev->ops->pause(dev->dev);
    assert_int_equal(dev->ops->save(dev->dev, &buf, &len, &e), 0);
    w->d.f.dev = *dev;
    fx_mutate(&w->d.f);
    w->d.f.dev = (struct fy_device){0};
    dev->ops->reset(dev->dev);
    assert_int_equal(dev->ops->load(dev->dev, buf, len, &e), 0);
    free(buf);
    dev->ops->resume(dev->dev);
    assert_int_equal(w->count, 0);
    /* Released by epoch until all is out: the driver has its buffer back, nothing is lost. */
    for (size_t before = 0; w->count < BIG - FY_CONSOLE_HELD; before = w->count) {
        uint64_t epoch = fy_gate_hold(w->gate);
        assert_int_equal(fy_gate_release(w->gate, epoch - 1, &e), 0);
        assert_true(w->count > before);
        if (BIG - w->count > FY_CONSOLE_HELD)
            await_full(w);
    }
    fy_gate_open(w->gate);
    drv_wait(&w->d, Q_TX, &used);
    expect_filled(w, BIG);
    world_free(w);
}

static void states(void **state)
{
    (void)state;
    struct world *w = world_new();
    drv_start(&w->d, 0, 2, 16);
    fy_virtio_console_input(w->v, (const uint8_t *)"typed", 5);
    w->d.dev.ops->pause(w->d.dev.dev);
    w->d.f.dev = w->d.dev;
    fx_mutate(&w->d.f);
    w->d.f.dev = (struct fy_device){0};
    w->d.dev.ops->resume(w->d.dev.dev);
    struct drv_seg s = {DRV_DATA, 64, true};
    assert_int_equal(drv_do(&w->d, Q_RX, &s, 1), 5);
    assert_memory_equal(drv_at(&w->d, DRV_DATA), "typed", 5);
    world_free(w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(output), cmocka_unit_test(input),
                                       cmocka_unit_test(emergency), cmocka_unit_test(held),
                                       cmocka_unit_test(states)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
