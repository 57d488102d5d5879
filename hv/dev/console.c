// SPDX-License-Identifier: Apache-2.0
/* The console's way out through the gate, and its scrollback: a ring of the last output. Both are part of the
 * guest's state.
 *
 * What is held lies in one ring, in the order in which it came; an item of the gate stands for a number of
 * its bytes. All bytes of an epoch share an item, so that a serial port's single bytes cost none each. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/chips.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

/* Epochs with output that can wait at once. Beyond that transmitters are busy: no memory is asked for when a
 * guest prints. */
#define ITEMS 64

struct held_item {
    struct fy_gate_item item; /* first */
    struct console *c;
    size_t len;
    bool used;
};

struct console {
    struct fy_console_config config;
    pthread_mutex_t lock; /* all below */
    size_t next;          /* where the next byte goes */
    size_t len;           /* bytes in the ring */
    uint64_t total;       /* bytes ever put out */
    uint8_t ring[FY_CONSOLE_SCROLLBACK];

    uint8_t held[FY_CONSOLE_HELD];
    size_t held_first, held_len;
    size_t loaded;          /* of held, the first ones: not yet given to the gate, came with a state */
    struct held_item *last; /* of the epoch that goes on; NULL: none */
    struct held_item items[ITEMS];
    bool was_low; /* somebody has seen too little room */
};

static void remember(struct console *c, const uint8_t *buf, size_t len)
{
    c->total =
        FY_MIN(c->total + len, (uint64_t)INT64_MAX); /* a state has no more, and it never wraps round */
    if (len > sizeof c->ring) {
        buf += len - sizeof c->ring;
        len = sizeof c->ring;
    }
    size_t first = FY_MIN(len, sizeof c->ring - c->next);
    memcpy(c->ring + c->next, buf, first);
    memcpy(c->ring, buf + first, len - first);
    c->next = (c->next + len) % sizeof c->ring;
    c->len = FY_MIN(c->len + len, sizeof c->ring);
}

static void put_out(struct console *c, const uint8_t *buf, size_t len)
{
    if (!len)
        return;
    remember(c, buf, len);
    if (c->config.out)
        c->config.out(c->config.arg, buf, len);
}

static void keep(struct console *c, const uint8_t *buf, size_t len)
{
    size_t at = (c->held_first + c->held_len) % sizeof c->held;
    size_t first = FY_MIN(len, sizeof c->held - at);
    memcpy(c->held + at, buf, first);
    memcpy(c->held, buf + first, len - first);
    c->held_len += len;
}

/* The oldest `len` held bytes are put out, or forgotten. */
static void let_go(struct console *c, size_t len, bool out)
{
    size_t first = FY_MIN(len, sizeof c->held - c->held_first);
    if (out) {
        put_out(c, c->held + c->held_first, first);
        put_out(c, c->held, len - first);
    }
    c->held_first = (c->held_first + len) % sizeof c->held;
    c->held_len -= len;
}

static struct held_item *free_item(struct console *c)
{
    for (unsigned i = 0; i < ITEMS; i++)
        if (!c->items[i].used)
            return &c->items[i];
    return NULL;
}

/* The item that what comes now may join. */
static struct held_item *current_item(const struct console *c)
{
    return c->last && c->last->item.epoch == fy_gate_epoch(c->config.gate) ? c->last : NULL;
}

/* What put takes now. */
static size_t takes(struct console *c)
{
    return current_item(c) || free_item(c) ? sizeof c->held - c->held_len : 0;
}

/* What it takes whatever epoch begins meanwhile. */
static size_t room_locked(struct console *c)
{
    size_t room = free_item(c) ? sizeof c->held - c->held_len : 0;
    if (room < FY_CONSOLE_LOW)
        c->was_low = true;
    return room;
}

static void finish(struct fy_gate_item *item, bool out)
{
    struct held_item *h = (struct held_item *)item;
    struct console *c = h->c;
    pthread_mutex_lock(&c->lock);
    if (c->last == h)
        c->last = NULL;
    let_go(c, h->len, out);
    h->used = false;
    bool tell = c->was_low;
    c->was_low = false;
    tell = tell && room_locked(c) >= FY_CONSOLE_LOW;
    pthread_mutex_unlock(&c->lock);
    if (tell && c->config.room)
        c->config.room(c->config.arg);
}

static void on_pass(struct fy_gate_item *item)
{
    finish(item, true);
}

static void on_drop(struct fy_gate_item *item)
{
    finish(item, false);
}

/* The newest `len` held bytes, which have no item yet, go to the gate; an item is free. Locked. */
static void to_gate(struct console *c, size_t len)
{
    struct held_item *h = free_item(c);
    *h = (struct held_item){.item = {.pass = on_pass, .drop = on_drop}, .c = c, .len = len, .used = true};
    if (!fy_gate_pass(c->config.gate, &h->item)) {
        c->last = h;
        return;
    }
    h->used = false;
    let_go(c, len, true);
}

size_t fy_console_put(struct fy_device *console, const uint8_t *buf, size_t len)
{
    struct console *c = console->dev;
    pthread_mutex_lock(&c->lock);
    if (!c->held_len && (!c->config.gate || !fy_gate_holding(c->config.gate))) {
        put_out(c, buf, len);
    } else {
        len = FY_MIN(len, takes(c));
        struct held_item *h = current_item(c);
        keep(c, buf, len);
        if (h)
            h->len += len;
        else if (len)
            to_gate(c, len);
    }
    pthread_mutex_unlock(&c->lock);
    return len;
}

size_t fy_console_room(struct fy_device *console)
{
    struct console *c = console->dev;
    pthread_mutex_lock(&c->lock);
    size_t room = room_locked(c);
    pthread_mutex_unlock(&c->lock);
    return room;
}

void fy_console_lock(struct fy_device *console)
{
    pthread_mutex_lock(&((struct console *)console->dev)->lock);
}

void fy_console_unlock(struct fy_device *console)
{
    pthread_mutex_unlock(&((struct console *)console->dev)->lock);
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
    const struct console *c = console->dev;
    size_t n = copy_out(c, buf, after < c->total ? FY_MIN(room, c->total - after) : 0);
    *position = c->total - n;
    return n;
}

static int console_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct console *c = dev;
    uint8_t *text = malloc(sizeof c->ring + sizeof c->held);
    if (!text)
        return fy_fail(e, FY_ERESOURCE, "no memory for the console's state");
    uint8_t *held = text + sizeof c->ring;
    Ferry__Console m = FERRY__CONSOLE__INIT;
    pthread_mutex_lock(&c->lock);
    m.scrollback.len = copy_out(c, text, sizeof c->ring);
    m.total = c->total;
    size_t first = FY_MIN(c->held_len, sizeof c->held - c->held_first);
    memcpy(held, c->held + c->held_first, first);
    memcpy(held + first, c->held, c->held_len - first);
    m.held.len = c->held_len;
    pthread_mutex_unlock(&c->lock);
    m.scrollback.data = text;
    m.held.data = held;
    int rc = fy_state_pack(&m.base, buf, len, e);
    free(text);
    return rc;
}

static void load_locked(struct console *c, const Ferry__Console *m)
{
    c->len = m->scrollback.len;
    c->total = FY_MAX(m->total, c->len);
    c->next = c->len % sizeof c->ring;
    if (c->len)
        memcpy(c->ring, m->scrollback.data, c->len);
    /* What this gate itself still holds keeps its place in front. */
    c->held_len -= c->loaded;
    c->loaded = m->held.len;
    if (m->held.len)
        keep(c, m->held.data, m->held.len);
}

static int console_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct console *c = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__console__descriptor, "console", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__Console *m = (const Ferry__Console *)msg;
    int rc = 0;
    pthread_mutex_lock(&c->lock);
    if (m->scrollback.len > sizeof c->ring)
        rc = fy_fail(e, FY_ECORRUPT, "console: scrollback of %zu bytes, the limit is %zu", m->scrollback.len,
                     sizeof c->ring);
    else if (m->held.len > sizeof c->held)
        rc =
            fy_fail(e, FY_ECORRUPT, "console: %zu bytes held, the limit is %zu", m->held.len, sizeof c->held);
    else if (m->total > INT64_MAX)
        rc =
            fy_fail(e, FY_ECORRUPT, "console: no guest has put out %llu bytes", (unsigned long long)m->total);
    else if (c->held_len > c->loaded)
        rc = fy_fail(e, FY_ESTATE, "console: output is held here: it must pass before a state is loaded");
    else
        load_locked(c, m);
    pthread_mutex_unlock(&c->lock);
    protobuf_c_message_free_unpacked(msg, NULL);
    return rc;
}

/* What came with a state goes on its way when the guest does. */
static void console_resume(void *dev)
{
    struct console *c = dev;
    pthread_mutex_lock(&c->lock);
    if (c->loaded)
        to_gate(c, c->loaded);
    c->loaded = 0;
    pthread_mutex_unlock(&c->lock);
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
    .resume = console_resume,
};

int fy_console_new(const struct fy_console_config *config, struct fy_device *out, struct fy_err *e)
{
    struct console *c = calloc(1, sizeof *c);
    if (!c)
        return fy_fail(e, FY_ERESOURCE, "no memory for the console");
    c->config = *config;
    pthread_mutex_init(&c->lock, NULL);
    *out = (struct fy_device){.id = "console", .ops = &console_ops, .dev = c};
    return 0;
}
