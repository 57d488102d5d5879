// SPDX-License-Identifier: Apache-2.0
/* One chip under the fuzzer: the input is {u16 length, state message, operations of 4 bytes}. The state is
 * loaded, then a thousand operations are done (the input's, then derived ones), and the chip must still save
 * a state that it loads again unchanged. */
#ifndef FERRY_TESTS_FUZZ_DEVICE_H
#define FERRY_TESTS_FUZZ_DEVICE_H

#include <string.h>

#include "hv/dev/chips.h"
#include "proto/state.pb-c.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/ops.h"

struct fuzz_device {
    struct fy_bus *bus;
    struct fy_dev_host host;
    struct fy_device dev;
    uint64_t guest_ns, realtime_ns;
    const uint16_t *ports; /* first ports of what the chip claims */
    unsigned port_count;
    unsigned kind;                                     /* of fuzz_loads */
    void (*other)(struct fuzz_device *f, uint32_t op); /* what is no port access; NULL allowed */
};

static void fz_irq(void *arg, unsigned gsi, bool level)
{
    (void)arg;
    (void)level;
    MUST(gsi < 24);
}

static uint64_t fz_guest_ns(void *arg)
{
    return ((struct fuzz_device *)arg)->guest_ns;
}

static int64_t fz_realtime_s(void *arg)
{
    return (int64_t)(((struct fuzz_device *)arg)->realtime_ns / 1000000000);
}

static uint64_t fz_realtime_ns(void *arg)
{
    return ((struct fuzz_device *)arg)->realtime_ns;
}

static struct fy_device *fuzz_console; /* where output goes; NULL: nowhere */

static size_t fz_out(void *arg, const uint8_t *buf, size_t len)
{
    (void)arg;
    MUST(len > 0);
    return fuzz_console ? fy_console_put(fuzz_console, buf, len) : len;
}

static size_t fz_out_room(void *arg)
{
    (void)arg;
    return fuzz_console ? fy_console_room(fuzz_console) : SIZE_MAX;
}

static void fz_event(void *arg)
{
    (void)arg;
}

static void fz_exit(void *arg, int status)
{
    (void)arg;
    (void)status;
}

static inline void fuzz_device_init(struct fuzz_device *f)
{
    f->bus = fy_bus_new(NULL);
    MUST(f->bus);
    f->host = (struct fy_dev_host){.arg = f,
                                   .irq = fz_irq,
                                   .guest_ns = fz_guest_ns,
                                   .realtime_s = fz_realtime_s,
                                   .realtime_ns = fz_realtime_ns,
                                   .console_out = fz_out,
                                   .console_out_room = fz_out_room,
                                   .console_room = fz_event,
                                   .power_off = fz_event,
                                   .reset = fz_event,
                                   .exit = fz_exit};
    f->guest_ns = 77;
    f->realtime_ns = 1700000000123456789ull;
}

static inline void fuzz_device_op(struct fuzz_device *f, uint32_t op)
{
    unsigned kind = op & 7;
    unsigned size = 1u << (op >> 3 & 3);
    uint32_t value = op >> 16;
    uint16_t port = f->port_count ? (uint16_t)(f->ports[(op >> 8 & 15) % f->port_count] + (op >> 12 & 7)) : 0;
    if (kind == 0) {
        f->guest_ns += (uint64_t)value << (op >> 5 & 31);
        f->realtime_ns = (f->realtime_ns + ((uint64_t)value << (op >> 5 & 31))) & INT64_MAX;
    } else if (kind == 1 && f->other) {
        f->other(f, op);
    } else if (kind == 2 && (op >> 24) == 0xa5) {
        f->dev.ops->reset(f->dev.dev);
    } else if (kind & 1) {
        fy_bus_write(f->bus, FY_SPACE_PORT, port, size, value);
    } else {
        fy_bus_read(f->bus, FY_SPACE_PORT, port, size);
    }
}

/* The state {u16 length, message} at the front of *data is loaded; *data goes on behind it. */
static inline void fuzz_device_load(struct fuzz_device *f, const uint8_t **data, size_t *size)
{
    struct fy_err e = {0};
    if (*size < 2)
        return;
    size_t len = (*data)[0] | (size_t)(*data)[1] << 8;
    len = len < *size - 2 ? len : *size - 2;
    int r = f->dev.ops->load(f->dev.dev, *data + 2, len, &e);
    if (r)
        MUST(e.code == FY_ECORRUPT && e.text[0]);
    fuzz_load_tried(f->kind, *data + 2, len, r == 0);
    *data += 2 + len;
    *size -= 2 + len;
}

/* What the device saves it loads again, and saves the same. */
static inline void fuzz_same_after_load(struct fuzz_device *f)
{
    struct fy_device *d = &f->dev;
    struct fy_err e = {0};
    uint8_t *a = NULL, *b = NULL;
    size_t alen, blen;
    if (d->ops->save(d->dev, &a, &alen, &e) < 0)
        fprintf(stderr, "%s\n", e.text);
    MUST(a);
    if (d->ops->load(d->dev, a, alen, &e) < 0) {
        fprintf(stderr, "%s\n", e.text);
        MUST(!"the device refuses its own state");
    }
    MUST(d->ops->save(d->dev, &b, &blen, &e) == 0);
    MUST(alen == blen && memcmp(a, b, alen) == 0);
    fuzz_load_offer(f->kind, a, alen);
    free(a);
    free(b);
}

static inline void fuzz_device_run(struct fuzz_device *f, const uint8_t *data, size_t size)
{
    uint64_t seed = 0x9e3779b97f4a7c15ull ^ size;
    fuzz_device_load(f, &data, &size);
    for (unsigned i = 0; i < fuzz_operations_wanted(); i++)
        fuzz_device_op(f, fuzz_next_op(&data, &size, &seed));
    fuzz_operations(fuzz_operations_wanted());
    fuzz_same_after_load(f);
    f->dev.ops->free(f->dev.dev);
    fy_bus_free(f->bus);
}

/* Of a target with one kind of input that has nothing before its state. */
#define FUZZ_DEVICE_LOADS(device, message)                                                                   \
    const struct fuzz_loads fuzz_loads = {.counted = true, .kinds = 1, .kind = {{(device), &(message), NULL}}}

#endif
