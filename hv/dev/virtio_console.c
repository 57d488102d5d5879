// SPDX-License-Identifier: Apache-2.0
/* Console device (virtio 1.2, 5.3), one port: what the driver transmits goes the console's way out
 * (host->console_out), what viewers type waits here for the driver's buffers. A transmitted buffer that does
 * not fit, because output is held, stays in its ring with a note of how far it was taken. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/state.h"
#include "hv/dev/virtio_devices.h"
#include "proto/state.pb-c.h"
#include "proto/wire.h"

#define CLASS_CONSOLE 0x078000u
#define F_EMERG_WRITE (1ull << 2)

enum { Q_RX, Q_TX, QUEUES };

#define CONFIG_BYTES 12 /* cols, rows, max_nr_ports, emerg_wr */
#define CONFIG_EMERG_WR 8
#define PENDING_MAX 4096
#define PIECE 1024u
#define BYTES_A_TURN 65536u /* under the device's lock: a pause waits for it */
#define REQUESTS_A_TURN 64u

struct vcon {
    struct fy_virtio *v;
    uint64_t taken; /* bytes of the transmit queue's next buffer that are out already */
    bool waits;     /* for room to put the rest out */
    bool ready;     /* atomic: a driver has it */
    uint8_t pending[PENDING_MAX];
    size_t pending_len;
};

/* As much of a buffer as there is room for. true: all of it is out. */
static bool put_out(struct vcon *c, const struct fy_vq_chain *chain, uint64_t *left)
{
    const struct fy_dev_host *h = fy_virtio_host(c->v);
    uint8_t buf[PIECE];
    while (c->taken < chain->out_bytes) {
        size_t room = h->console_out_room ? h->console_out_room(h->arg) : SIZE_MAX;
        c->waits = room < FY_CONSOLE_LOW;
        uint64_t n = FY_MIN(FY_MIN(sizeof buf, *left), room);
        if (c->waits || !n)
            return false;
        n = fy_vq_fetch(chain, c->taken, buf, n);
        if (!n)
            break;
        size_t put = h->console_out(h->arg, buf, n);
        c->taken += put;
        *left -= FY_MIN(put, *left);
    }
    c->taken = 0;
    return true;
}

static void transmit(struct vcon *c)
{
    struct fy_vq *q = fy_virtio_queue(c->v, Q_TX);
    struct fy_vq_chain chain;
    uint64_t left = BYTES_A_TURN;
    unsigned turn = 0;
    c->waits = false;
    while (left && turn < REQUESTS_A_TURN) {
        int got = fy_vq_pop(q, &chain);
        if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (got != FY_VQ_GOT)
            break;
        if (!put_out(c, &chain, &left)) {
            fy_vq_unpop(q, &chain);
            break;
        }
        fy_vq_put(q, &chain, 0);
        turn++;
    }
    fy_virtio_notify(c->v, Q_TX);
    if (!c->waits && (!left || turn == REQUESTS_A_TURN))
        fy_virtio_again(c->v, Q_TX);
}

/* What was typed goes into the driver's buffers. */
static void receive(struct vcon *c)
{
    struct fy_vq *q = fy_virtio_queue(c->v, Q_RX);
    struct fy_vq_chain chain;
    size_t done = 0;
    unsigned turn = 0;
    while (done < c->pending_len && turn++ < REQUESTS_A_TURN) {
        int got = fy_vq_pop(q, &chain);
        if (got == FY_VQ_EMPTY && fy_vq_enable_kicks(q))
            continue;
        if (got != FY_VQ_GOT)
            break;
        uint64_t n = fy_vq_store(&chain, 0, c->pending + done, c->pending_len - done);
        fy_vq_put(q, &chain, (uint32_t)n);
        done += n;
    }
    c->pending_len -= done;
    memmove(c->pending, c->pending + done, c->pending_len);
    fy_virtio_notify(c->v, Q_RX);
    if (c->pending_len && turn > REQUESTS_A_TURN)
        fy_virtio_again(c->v, Q_RX);
    const struct fy_dev_host *h = fy_virtio_host(c->v);
    if (done && h->console_room)
        h->console_room(h->arg);
}

static void vcon_kick(void *dev, unsigned n)
{
    if (n == Q_TX)
        transmit(dev);
    else
        receive(dev);
}

size_t fy_virtio_console_input(struct fy_virtio *v, const uint8_t *buf, size_t len)
{
    struct vcon *c = fy_virtio_dev(v);
    bool works = fy_virtio_enter(v);
    size_t n = FY_MIN(len, PENDING_MAX - c->pending_len);
    memcpy(c->pending + c->pending_len, buf, n);
    c->pending_len += n;
    if (works && n)
        fy_virtio_again(v, Q_RX);
    fy_virtio_leave(v);
    return n;
}

size_t fy_virtio_console_input_room(struct fy_virtio *v)
{
    const struct vcon *c = fy_virtio_dev(v);
    fy_virtio_enter(v);
    size_t room = PENDING_MAX - c->pending_len;
    fy_virtio_leave(v);
    return room;
}

bool fy_virtio_console_ready(struct fy_virtio *v)
{
    const struct vcon *c = fy_virtio_dev(v);
    return __atomic_load_n(&c->ready, __ATOMIC_RELAXED);
}

void fy_virtio_console_output_room(struct fy_virtio *v)
{
    struct vcon *c = fy_virtio_dev(v);
    if (fy_virtio_enter(v) && c->waits)
        fy_virtio_again(v, Q_TX);
    fy_virtio_leave(v);
}

static void vcon_config_read(void *dev, uint32_t offset, uint8_t *buf, uint32_t len)
{
    uint8_t config[CONFIG_BYTES] = {0};
    (void)dev;
    fy_put32(config + 4, 1); /* max_nr_ports */
    memcpy(buf, config + offset, len);
}

/* A character of a driver that cannot set up queues (any more). It may come before DRIVER_OK. */
static void vcon_config_write(void *dev, uint32_t offset, const uint8_t *buf, uint32_t len)
{
    const struct vcon *c = dev;
    const struct fy_dev_host *h = fy_virtio_host(c->v);
    if (offset == CONFIG_EMERG_WR && len)
        h->console_out(h->arg, buf, 1);
}

static void vcon_activate(void *dev, uint64_t features)
{
    struct vcon *c = dev;
    (void)features;
    __atomic_store_n(&c->ready, fy_virtio_queue(c->v, Q_TX)->started, __ATOMIC_RELAXED);
    /* Input that waited for room in the serial port may come here. */
    const struct fy_dev_host *h = fy_virtio_host(c->v);
    if (h->console_room)
        h->console_room(h->arg);
}

static void vcon_reset(void *dev)
{
    struct vcon *c = dev;
    c->taken = 0;
    c->waits = false;
    c->pending_len = 0;
    __atomic_store_n(&c->ready, false, __ATOMIC_RELAXED);
}

static int vcon_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct vcon *c = dev;
    Ferry__VirtioConsole m = FERRY__VIRTIO_CONSOLE__INIT;
    m.transmitted = c->taken;
    m.pending_input = (ProtobufCBinaryData){.len = c->pending_len, .data = c->pending};
    return fy_state_pack(&m.base, buf, len, e);
}

static int vcon_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct vcon *c = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__virtio_console__descriptor, "hvc0", buf, len, e);
    if (!msg)
        return -1;
    const Ferry__VirtioConsole *m = (const Ferry__VirtioConsole *)msg;
    int r = 0;
    if (m->pending_input.len > PENDING_MAX)
        r = fy_fail(e, FY_ECORRUPT, "hvc0: %zu bytes of pending input, the limit is %d", m->pending_input.len,
                    PENDING_MAX);
    if (r == 0) {
        c->taken = m->transmitted; /* beyond the buffer it is of: that is put back as it is */
        c->waits = false;
        __atomic_store_n(&c->ready, false, __ATOMIC_RELAXED);
        c->pending_len = m->pending_input.len;
        if (c->pending_len)
            memcpy(c->pending, m->pending_input.data, c->pending_len);
    }
    protobuf_c_message_free_unpacked(msg, NULL);
    return r;
}

static void vcon_free(void *dev)
{
    free(dev);
}

static const struct fy_virtio_type vcon_type = {
    .type = "virtio-console",
    .version = 1,
    .device_id = FY_VIRTIO_CONSOLE,
    .pci_class = CLASS_CONSOLE,
    .config_read = vcon_config_read,
    .config_write = vcon_config_write,
    .activate = vcon_activate,
    .kick = vcon_kick,
    .reset = vcon_reset,
    .save = vcon_save,
    .load = vcon_load,
    .free = vcon_free,
};

int fy_virtio_console_new(struct fy_pci *pci, struct fy_gmem *gmem, struct fy_iothread *io, unsigned slot,
                          struct fy_virtio **v, struct fy_device *out, struct fy_err *e)
{
    struct vcon *c = calloc(1, sizeof *c);
    if (!c)
        return fy_fail(e, FY_ERESOURCE, "no memory for the virtio console");
    struct fy_virtio_config config = {.id = "hvc0",
                                      .slot = slot,
                                      .features = F_EMERG_WRITE,
                                      .queues = QUEUES,
                                      .queue_size = 128,
                                      .config_bytes = CONFIG_BYTES,
                                      .io = io};
    int r = fy_virtio_new(pci, gmem, &vcon_type, &config, c, v, out, e);
    if (r == 0)
        c->v = *v;
    return r;
}
