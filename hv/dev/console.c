// SPDX-License-Identifier: Apache-2.0
/* The console's scrollback: a ring of the last output, part of the guest's state. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/chips.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

struct console {
    pthread_mutex_t lock;
    size_t next;    /* where the next byte goes */
    size_t len;     /* bytes held */
    uint64_t total; /* bytes ever appended */
    uint8_t ring[FY_CONSOLE_SCROLLBACK];
};

void fy_console_append(struct fy_device *console, const uint8_t *buf, size_t len)
{
    struct console *c = console->dev;
    size_t all = len;
    if (len > sizeof c->ring) {
        buf += len - sizeof c->ring;
        len = sizeof c->ring;
    }
    pthread_mutex_lock(&c->lock);
    size_t first = FY_MIN(len, sizeof c->ring - c->next);
    memcpy(c->ring + c->next, buf, first);
    memcpy(c->ring, buf + first, len - first);
    c->next = (c->next + len) % sizeof c->ring;
    c->len = FY_MIN(c->len + len, sizeof c->ring);
    c->total += all;
    pthread_mutex_unlock(&c->lock);
}

/* The newest `room` bytes or fewer, oldest first. The lock is held. */
static size_t copy_out(const struct console *c, uint8_t *buf, size_t room)
{
    size_t n = FY_MIN(c->len, room);
    size_t start = (c->next + sizeof c->ring - n) % sizeof c->ring;
    size_t first = FY_MIN(n, sizeof c->ring - start);
    memcpy(buf, c->ring + start, first);
    memcpy(buf + first, c->ring, n - first);
    return n;
}

size_t fy_console_scrollback(struct fy_device *console, uint64_t after, uint8_t *buf, size_t room,
                             uint64_t *position)
{
    struct console *c = console->dev;
    pthread_mutex_lock(&c->lock);
    size_t n = copy_out(c, buf, after < c->total ? FY_MIN(room, c->total - after) : 0);
    *position = c->total - n;
    pthread_mutex_unlock(&c->lock);
    return n;
}

static int console_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct console *c = dev;
    uint8_t *text = malloc(sizeof c->ring);
    if (!text)
        return fy_fail(e, FY_ERESOURCE, "no memory for the console's state");
    Ferry__Console m = FERRY__CONSOLE__INIT;
    pthread_mutex_lock(&c->lock);
    m.scrollback.len = copy_out(c, text, sizeof c->ring);
    m.total = c->total;
    pthread_mutex_unlock(&c->lock);
    m.scrollback.data = text;
    int rc = fy_state_pack(&m.base, buf, len, e);
    free(text);
    return rc;
}

static int console_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct console *c = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__console__descriptor, "console", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__Console *m = (const Ferry__Console *)msg;
    int rc = 0;
    if (m->scrollback.len > sizeof c->ring) {
        rc = fy_fail(e, FY_ECORRUPT, "console: scrollback of %zu bytes, the limit is %zu", m->scrollback.len,
                     sizeof c->ring);
    } else {
        pthread_mutex_lock(&c->lock);
        c->len = m->scrollback.len;
        c->total = FY_MAX(m->total, c->len);
        c->next = c->len % sizeof c->ring;
        if (c->len)
            memcpy(c->ring, m->scrollback.data, c->len);
        pthread_mutex_unlock(&c->lock);
    }
    protobuf_c_message_free_unpacked(msg, NULL);
    return rc;
}

/* What the guest said before a reset is what one wants to read after it. */
static void console_reset(void *dev)
{
    (void)dev;
}

static void console_free(void *dev)
{
    struct console *c = dev;
    pthread_mutex_destroy(&c->lock);
    free(c);
}

static const struct fy_dev_ops console_ops = {
    .type = "console",
    .version = 1,
    .save = console_save,
    .load = console_load,
    .reset = console_reset,
    .free = console_free,
};

int fy_console_new(struct fy_device *out, struct fy_err *e)
{
    struct console *c = calloc(1, sizeof *c);
    if (!c)
        return fy_fail(e, FY_ERESOURCE, "no memory for the console");
    pthread_mutex_init(&c->lock, NULL);
    *out = (struct fy_device){.id = "console", .ops = &console_ops, .dev = c};
    return 0;
}
