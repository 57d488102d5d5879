// SPDX-License-Identifier: Apache-2.0
/* A machine's side for tests of chips: records what the chip does, time stands where the test puts it. */
#ifndef FERRY_TESTS_DEV_FIXTURE_H
#define FERRY_TESTS_DEV_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "hv/dev/chips.h"
#include "hv/dev/platform.h"

struct fixture {
    struct fy_bus *bus;
    struct fy_dev_host host;
    struct fy_device dev;
    bool line[24];
    uint64_t guest_ns;
    uint64_t realtime_ns;
    uint8_t out[8192];
    size_t out_len;
    struct fy_device *console; /* of the test: output goes there; NULL: into out */
    unsigned power_offs, resets, exits, rooms;
    int status;
};

static void fx_irq(void *arg, unsigned gsi, bool level)
{
    struct fixture *f = arg;
    assert_true(gsi < 24);
    f->line[gsi] = level;
}

static uint64_t fx_guest_ns(void *arg)
{
    return ((struct fixture *)arg)->guest_ns;
}

static int64_t fx_realtime_s(void *arg)
{
    return (int64_t)(((struct fixture *)arg)->realtime_ns / 1000000000);
}

static uint64_t fx_realtime_ns(void *arg)
{
    return ((struct fixture *)arg)->realtime_ns;
}

static size_t fx_out(void *arg, const uint8_t *buf, size_t len)
{
    struct fixture *f = arg;
    if (f->console)
        return fy_console_put(f->console, buf, len);
    assert_true(f->out_len + len <= sizeof f->out);
    memcpy(f->out + f->out_len, buf, len);
    f->out_len += len;
    return len;
}

static size_t fx_out_room(void *arg)
{
    struct fixture *f = arg;
    return f->console ? fy_console_room(f->console) : SIZE_MAX;
}

static void fx_power_off(void *arg)
{
    ((struct fixture *)arg)->power_offs++;
}

static void fx_reset(void *arg)
{
    ((struct fixture *)arg)->resets++;
}

static void fx_exit(void *arg, int status)
{
    struct fixture *f = arg;
    f->exits++;
    f->status = status;
}

static void fx_room(void *arg)
{
    ((struct fixture *)arg)->rooms++;
}

static inline void fx_init(struct fixture *f)
{
    memset(f, 0, sizeof *f);
    f->bus = fy_bus_new(NULL);
    assert_non_null(f->bus);
    f->host = (struct fy_dev_host){.arg = f,
                                   .irq = fx_irq,
                                   .guest_ns = fx_guest_ns,
                                   .realtime_s = fx_realtime_s,
                                   .realtime_ns = fx_realtime_ns,
                                   .console_out = fx_out,
                                   .console_out_room = fx_out_room,
                                   .console_room = fx_room,
                                   .power_off = fx_power_off,
                                   .reset = fx_reset,
                                   .exit = fx_exit};
}

static inline void fx_done(struct fixture *f)
{
    if (f->dev.ops)
        f->dev.ops->free(f->dev.dev);
    fy_bus_free(f->bus);
}

static inline uint64_t fx_in(struct fixture *f, uint16_t port, unsigned size)
{
    return fy_bus_read(f->bus, FY_SPACE_PORT, port, size);
}

static inline void fx_outp(struct fixture *f, uint16_t port, unsigned size, uint64_t v)
{
    fy_bus_write(f->bus, FY_SPACE_PORT, port, size, v);
}

/* Save, load the bytes into the same chip, save again: nothing may change. */
static inline void fx_same_after_load(struct fixture *f)
{
    uint8_t *a = NULL;
    uint8_t *b = NULL;
    size_t alen;
    size_t blen;
    struct fy_err e = {0};
    assert_int_equal(f->dev.ops->save(f->dev.dev, &a, &alen, &e), 0);
    if (f->dev.ops->load(f->dev.dev, a, alen, &e))
        fail_msg("%s", e.text);
    assert_int_equal(f->dev.ops->save(f->dev.dev, &b, &blen, &e), 0);
    assert_int_equal(alen, blen);
    assert_memory_equal(a, b, alen);
    free(a);
    free(b);
}

/* Every cut and every flipped bit of a saved state is either refused, leaving the chip as it was, or loads to
 * something that saves and loads again. */
static inline void fx_mutate(struct fixture *f)
{
    uint8_t *a = NULL;
    size_t len;
    struct fy_err e = {0};
    assert_int_equal(f->dev.ops->save(f->dev.dev, &a, &len, &e), 0);
    uint8_t *m = malloc(len + 1);
    for (size_t i = 0; i < len * 8 + len; i++) {
        size_t mlen = i < len ? i : len;
        memcpy(m, a, len);
        if (i >= len)
            m[(i - len) / 8] ^= (uint8_t)(1 << (i - len) % 8);
        if (f->dev.ops->load(f->dev.dev, m, mlen, &e)) {
            assert_int_equal(e.code, FY_ECORRUPT);
            uint8_t *b = NULL;
            size_t blen;
            assert_int_equal(f->dev.ops->save(f->dev.dev, &b, &blen, &e), 0);
            assert_int_equal(blen, len);
            assert_memory_equal(a, b, len);
            free(b);
        } else {
            fx_same_after_load(f);
            assert_int_equal(f->dev.ops->load(f->dev.dev, a, len, &e), 0);
        }
    }
    free(m);
    free(a);
}

#endif
