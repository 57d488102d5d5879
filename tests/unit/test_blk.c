// SPDX-License-Identifier: Apache-2.0
/* The block device against its driver, on files by io_uring and by threads, through the page cache and past
 * it, and on a backend in memory. */
#include <errno.h>
#include <stdio.h>
#include <sys/stat.h>

#include "tests/unit/blk_fixture.h"

#define BYTES (4u << 20)
#define ALL_FEATURES                                                                                         \
    (FY_VIRTIO_F_INDIRECT_DESC | FY_VIRTIO_F_EVENT_IDX | BLK_FLUSH | BLK_DISCARD | BLK_ZEROES | 1u << 2 |    \
     1u << 6)

struct kind {
    bool threads, direct;
};

static const struct kind kinds[] = {{false, false}, {true, false}, {false, true}, {true, true}};

static uint64_t rnd(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    *seed ^= *seed << 17;
    return *seed >> 8;
}

/* An unlinked file in the current folder (which may have direct access, unlike /tmp). */
static int temp_file(uint64_t bytes, int flags)
{
    char path[] = "blk-XXXXXX";
    int fd = mkostemp(path, O_CLOEXEC);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, (off_t)bytes), 0);
    close(fd);
    fd = open(path, O_RDWR | O_CLOEXEC | flags);
    int err = errno;
    unlink(path);
    errno = err;
    return fd;
}

static struct fy_block *open_kind(const struct kind *k, int *look)
{
    struct fy_err e = {0};
    int fd = temp_file(BYTES, k->direct ? O_DIRECT : 0);
    if (fd < 0 && k->direct && errno == EINVAL)
        return NULL; /* a file system without: said by the test */
    assert_true(fd >= 0);
    *look = fy_dup(fd);
    if (k->direct)
        fcntl(*look, F_SETFL, fcntl(fd, F_GETFL)); /* one description: both have it */
    struct fy_file_config c = {.name = "test", .threads = k->threads};
    struct fy_block *b = fy_file_open(fd, &c, &e);
    if (!b)
        fail_msg("%s", e.text);
    assert_string_equal(fy_file_engine(b), k->threads ? "threads" : "io_uring");
    return b;
}

/* Random requests, many in flight, against a shadow of the disk. */
static void traffic(const struct kind *kind)
{
    struct disk k;
    int look = -1;
    struct fy_block *b = open_kind(kind, &look);
    if (!b) {
        print_message("no direct access here\n");
        return;
    }
    uint8_t *shadow = calloc(1, BYTES);
    uint64_t seed = 42;
    disk_init(&k, b, 2);
    drv_start(&k.d, ALL_FEATURES, 2, 128);
    for (unsigned round = 0; round < 150; round++) {
        uint32_t type[24], bytes[24];
        uint64_t sector[24];
        unsigned n = 1 + (unsigned)(rnd(&seed) % 24), each = BYTES / 512 / 24;
        for (unsigned i = 0; i < n; i++) {
            /* Each in a place of its own: what is in flight together has no order. */
            uint64_t first = (uint64_t)i * each + rnd(&seed) % (each / 2);
            uint64_t what = rnd(&seed) % 10;
            type[i] = what < 4 ? BLK_OUT : what < 8 ? BLK_IN : what < 9 ? BLK_T_DISCARD : BLK_T_ZEROES;
            bytes[i] = 512 * (1 + (uint32_t)(rnd(&seed) % 48));
            sector[i] = first;
            if (type[i] == BLK_OUT)
                for (uint32_t at = 0; at < bytes[i]; at++)
                    disk_data(&k, i)[at] = shadow[first * 512 + at] = (uint8_t)rnd(&seed);
            if (type[i] > BLK_OUT) {
                uint8_t *r = disk_data(&k, i);
                fy_put64(r, first);
                fy_put32(r + 8, bytes[i] / 512);
                fy_put32(r + 12, type[i] == BLK_T_ZEROES && rnd(&seed) % 2);
                /* A discarded range that is not whole blocks of the file reads as it did. */
                memset(shadow + first * 512, 0, bytes[i]);
            }
            disk_send(&k, i % 2, i, type[i], type[i] > BLK_OUT ? 0 : first,
                      type[i] > BLK_OUT ? 16 : bytes[i]);
        }
        drv_kick(&k.d, 0);
        drv_kick(&k.d, 1);
        for (unsigned i = 0; i < n; i++) {
            uint32_t len;
            drv_wait(&k.d, i % 2, &len);
        }
        for (unsigned i = 0; i < n; i++) {
            assert_int_equal(disk_status(&k, i), 0);
            if (type[i] == BLK_IN)
                assert_memory_equal(disk_data(&k, i), shadow + sector[i] * 512, bytes[i]);
        }
        if (round % 10 == 0)
            assert_int_equal(disk_do(&k, BLK_T_FLUSH, 0, 0), 0);
    }
    uint8_t *file = NULL;
    assert_int_equal(posix_memalign((void **)&file, 4096, BYTES), 0);
    assert_int_equal(fy_pread_all(look, file, BYTES, 0), 0);
    assert_memory_equal(file, shadow, BYTES);
    free(file);
    free(shadow);
    disk_done(&k);
    close(look);
}

static void traffic_uring(void **state)
{
    (void)state;
    traffic(&kinds[0]);
}

static void traffic_threads(void **state)
{
    (void)state;
    traffic(&kinds[1]);
}

static void traffic_direct(void **state)
{
    (void)state;
    traffic(&kinds[2]);
    traffic(&kinds[3]);
}

static void configuration(void **state)
{
    (void)state;
    struct disk k;
    disk_init(&k, &fake_new(BYTES, false)->b, 3);
    drv_start(&k.d, ALL_FEATURES, 3, 64);
    assert_int_equal(drv_device(&k.d, 0, 8), BYTES / 512);
    assert_int_equal(drv_device(&k.d, 12, 4), 254);
    assert_int_equal(drv_device(&k.d, 20, 4), 512);
    assert_int_equal(drv_device(&k.d, 24, 1), 3);
    assert_int_equal(drv_device(&k.d, 34, 2), 3);
    assert_int_equal(disk_do(&k, BLK_GET_ID, 0, 20), 0);
    assert_memory_equal(disk_data(&k, 0), "serial-number-of--20", 20);
    assert_int_equal(disk_do(&k, BLK_GET_ID, 0, 19), 1);
    assert_int_equal(disk_do(&k, 77, 0, 512), 2);
    disk_done(&k);
}

/* What does not fit the disk or the rules is answered, and changes nothing. */
static void wrong_requests(void **state)
{
    (void)state;
    struct disk k;
    struct fake *fake = fake_new(BYTES, false);
    disk_init(&k, &fake->b, 1);
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    uint64_t end = BYTES / 512;
    assert_int_equal(disk_do(&k, BLK_OUT, end - 1, 512), 0);
    assert_int_equal(disk_do(&k, BLK_OUT, end - 1, 1024), 1);
    assert_int_equal(disk_do(&k, BLK_IN, end, 512), 1);
    assert_int_equal(disk_do(&k, BLK_IN, UINT64_MAX / 512 + 1, 512), 1);
    assert_int_equal(disk_do(&k, BLK_IN, UINT64_MAX, 512), 1);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 500), 1);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 0), 1);
    assert_int_equal(disk_do(&k, BLK_IN, 0, 0), 1);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, end - 1, 2, 0), 1);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, UINT64_MAX - 1, 2, 0), 1);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, 0, 8, 1), 2);
    assert_int_equal(disk_range(&k, BLK_T_ZEROES, 0, 8, 2), 2);
    assert_int_equal(disk_range(&k, BLK_T_ZEROES, 0, UINT32_MAX, 0), 1);
    assert_int_equal(disk_range(&k, BLK_T_ZEROES, 0, 0, 0), 1);
    assert_int_equal(disk_do(&k, BLK_T_DISCARD, 0, 15), 1);
    assert_int_equal(disk_do(&k, BLK_T_DISCARD, 0, 16 * 17), 1);
    assert_int_equal(fake->logged, 1);
    /* Of two ranges the second is outside: the first is not touched. */
    fy_put64(disk_data(&k, 0), 0);
    fy_put32(disk_data(&k, 0) + 8, 8);
    fy_put32(disk_data(&k, 0) + 12, 0);
    fy_put64(disk_data(&k, 0) + 16, end);
    fy_put32(disk_data(&k, 0) + 24, 8);
    fy_put32(disk_data(&k, 0) + 28, 0);
    assert_int_equal(disk_do(&k, BLK_T_ZEROES, 0, 32), 1);
    assert_int_equal(fake->logged, 1);
    fy_put64(disk_data(&k, 0) + 16, 100);
    assert_int_equal(disk_do(&k, BLK_T_ZEROES, 0, 32), 0);
    assert_int_equal(fake->logged, 3);
    fake->fail = EIO;
    assert_int_equal(disk_do(&k, BLK_IN, 0, 512), 1);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 512), 1);
    assert_int_equal(disk_do(&k, BLK_T_FLUSH, 0, 0), 1);
    fake->fail = EOPNOTSUPP;
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, 0, 8, 0), 2);
    /* No room for a status: the device gives up on this driver, until it resets. */
    struct drv_seg s = {DRV_DATA, 16, false};
    drv_add(&k.d, 0, &s, 1, false);
    drv_kick(&k.d, 0);
    drv_await_broken(&k.d);
    fake->fail = 0;
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    assert_int_equal(disk_do(&k, BLK_IN, 0, 512), 0);
    disk_done(&k);
}

static void read_only(void **state)
{
    (void)state;
    struct disk k;
    struct fake *fake = fake_new(BYTES, true);
    disk_init(&k, &fake->b, 1);
    uint64_t offered = drv_offered(&k.d);
    assert_int_equal(offered >> 5 & 1, 1);
    assert_int_equal(offered & (BLK_DISCARD | BLK_ZEROES), 0);
    drv_start(&k.d, BLK_FLUSH, 1, 64);
    assert_int_equal(disk_do(&k, BLK_IN, 0, 4096), 0);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 4096), 1);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, 0, 8, 0), 1);
    assert_int_equal(disk_range(&k, BLK_T_ZEROES, 0, 8, 0), 1);
    assert_int_equal(fake->logged, 1);
    disk_done(&k);
}

/* A driver that knows no flush gets every write made durable before it is told. */
static void write_through(void **state)
{
    (void)state;
    struct disk k;
    struct fake *fake = fake_new(BYTES, false);
    disk_init(&k, &fake->b, 1);
    drv_start(&k.d, BLK_DISCARD, 1, 64);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 512), 0);
    assert_int_equal(disk_do(&k, BLK_IN, 0, 512), 0);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, 0, 8, 0), 0);
    fake->log[fake->logged] = 0;
    assert_string_equal(fake->log, "WFRDF");
    disk_done(&k);
}

/* A flush of the device's own: once at a time, and not while it is paused. */
static void written_back(void **state)
{
    (void)state;
    struct disk k;
    struct fy_virtio *v;
    struct fake *fake = fake_new(BYTES, false);
    disk_init(&k, &fake->b, 1);
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    v = k.d.dev.dev; /* its lock is the backend's too */
    fy_virtio_enter(v);
    fake->slow = true;
    fy_virtio_leave(v);
    for (unsigned i = 0; i < 5; i++)
        fy_virtio_blk_write_back(&k.d.dev);
    fy_virtio_enter(v);
    assert_int_equal(fake->in_flight, 1);
    fy_virtio_leave(v);
    k.d.dev.ops->pause(k.d.dev.dev);
    fy_virtio_blk_write_back(&k.d.dev);
    k.d.dev.ops->resume(k.d.dev.dev);
    fy_virtio_enter(v);
    fake->log[fake->logged] = 0;
    assert_string_equal(fake->log, "F");
    fy_virtio_leave(v);
    fy_virtio_blk_write_back(&k.d.dev);
    fy_virtio_enter(v);
    assert_int_equal(fake->in_flight, 1);
    fake->slow = false;
    fy_virtio_leave(v);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 512), 0);
    disk_done(&k);
}

/* More requests than the device takes at once; a pause and a reset with requests in flight; a move. */
static void drained(void **state)
{
    (void)state;
    struct disk k;
    struct fake *fake = fake_new(BYTES, false);
    disk_init(&k, &fake->b, 2);
    drv_start(&k.d, ALL_FEATURES, 2, 256);
    fake->slow = true;
    for (unsigned i = 0; i < 150; i++) {
        memset(disk_data(&k, i % 180), (int)i, 512);
        disk_send(&k, i % 2, i, BLK_OUT, i, 512);
    }
    drv_kick(&k.d, 0);
    drv_kick(&k.d, 1);
    struct fy_device *dev = &k.d.dev;
    uint8_t *buf;
    size_t len;
    struct fy_err e = {0};
    dev->ops->pause(dev->dev);
    assert_int_equal(fake->in_flight, 0);
    unsigned done = fake->logged;
    uint64_t marked = k.d.marked;
    if (dev->ops->save(dev->dev, &buf, &len, &e) < 0)
        fail_msg("%s", e.text);
    if (dev->ops->load(dev->dev, buf, len, &e) < 0)
        fail_msg("%s", e.text);
    assert_int_equal(fake->logged, done); /* paused: nothing is done */
    assert_int_equal(k.d.marked, marked);
    free(buf);
    fake->slow = false;
    dev->ops->resume(dev->dev);
    for (unsigned i = 0; i < 150; i++) {
        uint32_t n;
        drv_wait(&k.d, i % 2, &n);
    }
    for (unsigned i = 0; i < 150; i++) {
        assert_int_equal(disk_status(&k, i), 0);
        assert_int_equal(fake->bytes[i * 512], (uint8_t)i);
    }
    /* Reset with requests in flight: all are done first. */
    fake->slow = true;
    for (unsigned i = 0; i < 20; i++)
        disk_send(&k, 0, i, BLK_OUT, 1000 + i, 512);
    drv_kick(&k.d, 0);
    drv_write(&k.d, 20, 1, 0);
    assert_int_equal(fake->in_flight, 0);
    fake->slow = false;
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    assert_int_equal(disk_do(&k, BLK_IN, 0, 512), 0);
    disk_done(&k);
}

/* A held gate keeps writes off the disk and the word of a flush from the guest, until their epoch is
 * released. */
static void gated(void **state)
{
    (void)state;
    struct disk k;
    struct fy_err e = {0};
    uint32_t len;
    struct fake *fake = fake_new(BYTES, false);
    disk_init(&k, &fake->b, 1);
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    uint64_t epoch = fy_gate_hold(k.gate);
    memset(disk_data(&k, 1), 'x', 512);
    uint16_t write = disk_send(&k, 0, 1, BLK_OUT, 5, 512);
    uint16_t read = disk_send(&k, 0, 2, BLK_IN, 5, 512);
    drv_kick(&k.d, 0);
    assert_int_equal(drv_wait(&k.d, 0, &len), read); /* reads are nobody's business */
    assert_int_equal(fake->bytes[5 * 512], 0);
    assert_int_equal(fy_gate_kept(k.gate), 1);
    k.d.dev.ops->pause(k.d.dev.dev);
    fy_gate_hold(k.gate);
    assert_int_equal(fy_gate_release(k.gate, epoch, &e), 0);
    assert_int_equal(fake->bytes[5 * 512], 0); /* released while paused: not before it goes on */
    k.d.dev.ops->resume(k.d.dev.dev);
    while (fy_gate_kept(k.gate) < 1) /* it is written, and the word of that is kept in the next epoch */
        sched_yield();
    assert_int_equal(fake->bytes[5 * 512], 'x');
    assert_int_equal(disk_status(&k, 1), 0xaa);
    fy_gate_open(k.gate);
    assert_int_equal(drv_wait(&k.d, 0, &len), write);
    assert_int_equal(disk_status(&k, 1), 0);
    /* A driver that resets meanwhile: its held write is forgotten. */
    fy_gate_hold(k.gate);
    memset(disk_data(&k, 1), 'y', 512);
    disk_send(&k, 0, 1, BLK_OUT, 6, 512);
    drv_kick(&k.d, 0);
    while (fy_gate_kept(k.gate) < 1)
        sched_yield();
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    fy_gate_open(k.gate);
    assert_int_equal(disk_do(&k, BLK_IN, 6, 512), 0);
    assert_int_equal(fake->bytes[6 * 512], 0);
    disk_done(&k);
}

static uint64_t last_before;

static void before(void *arg, uint64_t offset, uint64_t bytes)
{
    struct fake *fake = arg;
    last_before = offset << 16 | bytes;
    assert_int_equal(fake->bytes[offset], 0); /* as it was */
}

static void dirty_blocks(void **state)
{
    (void)state;
    struct disk k;
    struct fy_err e = {0};
    uint64_t dirty, left;
    struct fake *fake = fake_new(BYTES, false);
    disk_init(&k, &fake->b, 1);
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    struct fy_blockdirty *bd = fy_virtio_blk_dirty(&k.d.dev);
    struct fy_blocktracker *a = fy_blocktracker_open(bd, true, &e), *b = fy_blocktracker_open(bd, false, &e);
    assert_int_equal(fy_blocktracker_blocks(a), BYTES / 65536);
    assert_int_equal(fy_blocktracker_count(a), 64);
    assert_int_equal(fy_blocktracker_count(b), 0);
    assert_int_equal(fy_blocktracker_take(a, 0, 64, &dirty, &left, &e), 0);
    assert_int_equal(dirty, 64);
    fy_blocktracker_done(a);
    fy_blockdirty_hook(bd, before, fake);
    memset(disk_data(&k, 0), 'z', 1024);
    assert_int_equal(disk_do(&k, BLK_OUT, 127, 1024), 0); /* over the border of blocks 0 and 1 */
    assert_int_equal(last_before, (127ull * 512) << 16 | 1024);
    fy_blockdirty_hook(bd, NULL, NULL);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, 128 * 10, 128, 0), 0);
    assert_int_equal(disk_do(&k, BLK_IN, 128 * 20, 512), 0); /* reading marks nothing */
    fake->fail = EIO;
    assert_int_equal(disk_do(&k, BLK_OUT, 128 * 30, 512), 1); /* who knows how much of it was written */
    assert_int_equal(fy_blocktracker_count(a), 4);
    assert_int_equal(fy_blocktracker_count(b), 4);
    assert_int_equal(fy_blocktracker_take(a, 1, 20, &dirty, &left, &e), 0);
    assert_int_equal(dirty, 2);
    assert_int_equal(left, 2);
    uint64_t map;
    assert_int_equal(pread(fy_blocktracker_fd(a), &map, 8, 0), 8);
    assert_int_equal(map & 0x1ffffe, 1u << 1 | 1u << 10);
    fy_blocktracker_giveback(a);
    assert_int_equal(fy_blocktracker_count(a), 4);
    assert_int_equal(fy_blocktracker_count(b), 4); /* the other has its own */
    assert_int_equal(fy_blocktracker_take(a, 64, 1, &dirty, &left, &e), -1);
    assert_int_equal(fy_blocktracker_take(a, 1, UINT64_MAX, &dirty, &left, &e), -1);
    fy_blocktracker_close(a);
    fy_blocktracker_close(b);
    disk_done(&k);
}

static int again(int fd, int flags)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", fd);
    return open(path, flags | O_CLOEXEC);
}

/* One writer or many readers; the lock goes and comes back. */
static void locks(void **state)
{
    (void)state;
    struct fy_err e = {0};
    int fd = temp_file(BYTES, 0), look = fy_dup(fd);
    struct fy_file_config rw = {.name = "a"}, ro = {.name = "a", .read_only = true};
    struct fy_block *w = fy_file_open(again(look, O_RDWR), &rw, &e);
    assert_non_null(w);
    assert_null(fy_file_open(again(look, O_RDWR), &rw, &e));
    assert_int_equal(e.code, FY_ESTATE);
    assert_non_null(strstr(e.text, "in use"));
    assert_null(fy_file_open(again(look, O_RDONLY), &ro, &e));
    assert_int_equal(w->ops->give_up(w, &e), 0);
    struct fy_block *r1 = fy_file_open(again(look, O_RDONLY), &ro, &e);
    struct fy_block *r2 = fy_file_open(again(look, O_RDONLY), &ro, &e);
    assert_non_null(r1);
    assert_non_null(r2);
    assert_int_equal(w->ops->take(w, &e), -1);
    r1->ops->free(r1);
    assert_int_equal(w->ops->take(w, &e), -1);
    r2->ops->free(r2);
    assert_int_equal(w->ops->take(w, &e), 0);
    assert_int_equal(w->ops->take(w, &e), 0);
    w->ops->free(w);
    /* Not for writing; of no size; no file. */
    assert_null(fy_file_open(again(look, O_RDONLY), &rw, &e));
    assert_int_equal(ftruncate(look, 1000), 0);
    assert_null(fy_file_open(again(look, O_RDWR), &rw, &e));
    assert_int_equal(ftruncate(look, 0), 0);
    assert_null(fy_file_open(again(look, O_RDWR), &rw, &e));
    assert_null(fy_file_open(eventfd(0, EFD_CLOEXEC), &rw, &e));
    close(fd);
    close(look);
}

/* A file that becomes shorter than its disk: errors, no end of the process. */
static void shorter(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 2; i++) {
        struct disk k;
        int look;
        disk_init(&k, open_kind(&kinds[i], &look), 1);
        drv_start(&k.d, ALL_FEATURES, 1, 64);
        assert_int_equal(ftruncate(look, 4096), 0);
        assert_int_equal(disk_do(&k, BLK_IN, 0, 4096), 0);
        assert_int_equal(disk_do(&k, BLK_IN, 7, 1024), 1);
        disk_done(&k);
        close(look);
    }
}

/* Zeroes and discards leave holes where they may. */
static void sparse(void **state)
{
    (void)state;
    struct disk k;
    struct stat before_st, st;
    int look;
    disk_init(&k, open_kind(&kinds[0], &look), 1);
    drv_start(&k.d, ALL_FEATURES, 1, 64);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(disk_do(&k, BLK_OUT, i * 48, 24576), 0);
    assert_int_equal(disk_do(&k, BLK_T_FLUSH, 0, 0), 0);
    assert_int_equal(fstat(look, &before_st), 0);
    assert_int_equal(disk_range(&k, BLK_T_DISCARD, 0, 1024, 0), 0);
    assert_int_equal(disk_range(&k, BLK_T_ZEROES, 1024, 1024, 1), 0);
    assert_int_equal(disk_do(&k, BLK_T_FLUSH, 0, 0), 0);
    assert_int_equal(fstat(look, &st), 0);
    assert_true(st.st_blocks <= before_st.st_blocks - 2048);
    assert_int_equal(st.st_size, BYTES);
    assert_int_equal(disk_range(&k, BLK_T_ZEROES, 2048, 512, 0), 0);
    assert_int_equal(disk_do(&k, BLK_IN, 2048, 4096), 0);
    for (unsigned i = 0; i < 4096; i++)
        assert_int_equal(disk_data(&k, 0)[i], 0);
    disk_done(&k);
    close(look);
}

static void states(void **state)
{
    (void)state;
    struct disk k;
    disk_init(&k, &fake_new(BYTES, false)->b, 2);
    drv_start(&k.d, ALL_FEATURES, 2, 64);
    assert_int_equal(disk_do(&k, BLK_OUT, 0, 4096), 0);
    k.d.dev.ops->pause(k.d.dev.dev);
    k.d.f.dev = k.d.dev;
    fx_mutate(&k.d.f);
    k.d.f.dev = (struct fy_device){0};
    k.d.dev.ops->resume(k.d.dev.dev);
    assert_int_equal(disk_do(&k, BLK_IN, 0, 4096), 0);
    disk_done(&k);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration), cmocka_unit_test(wrong_requests),  cmocka_unit_test(read_only),
        cmocka_unit_test(write_through), cmocka_unit_test(drained),         cmocka_unit_test(written_back),
        cmocka_unit_test(gated),         cmocka_unit_test(dirty_blocks),    cmocka_unit_test(locks),
        cmocka_unit_test(shorter),       cmocka_unit_test(sparse),          cmocka_unit_test(states),
        cmocka_unit_test(traffic_uring), cmocka_unit_test(traffic_threads), cmocka_unit_test(traffic_direct),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
