// SPDX-License-Identifier: Apache-2.0
/* 16550A UART. Registers, FIFOs and interrupts after the National PC16550D data sheet; the transmitter is
 * infinitely fast, so THR and the shift register are always empty but while output is held and the room for
 * it is full, and a received character that waits below the trigger level counts as timed out at once. On a
 * PC the OUT2 pin gates the interrupt line. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/chips.h"
#include "hv/dev/platform.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

#define FIFO_DEPTH 16
#define PENDING_MAX 4096

enum { REG_DATA, REG_IER, REG_IIR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR, REG_COUNT };

#define IER_RX 0x01
#define IER_THRE 0x02
#define IER_LINE 0x04
#define IER_MODEM 0x08
#define IER_MASK 0x0f

#define IIR_NONE 0x01
#define IIR_MODEM 0x00
#define IIR_THRE 0x02
#define IIR_RX 0x04
#define IIR_LINE 0x06
#define IIR_TIMEOUT 0x0c
#define IIR_FIFO 0xc0

#define FCR_ENABLE 0x01
#define FCR_CLEAR_RX 0x02
#define FCR_KEPT 0xc9 /* enable, DMA mode, trigger level; the clear bits clear themselves */

#define LCR_DLAB 0x80

#define MCR_DTR 0x01
#define MCR_RTS 0x02
#define MCR_OUT1 0x04
#define MCR_OUT2 0x08
#define MCR_LOOP 0x10
#define MCR_MASK 0x1f

#define LSR_DR 0x01
#define LSR_OE 0x02
#define LSR_EMPTY 0x60 /* THRE and TEMT */

#define MSR_DELTA 0x0f
#define MSR_TERI 0x04
#define MSR_CTS 0x10
#define MSR_DSR 0x20
#define MSR_RI 0x40
#define MSR_DCD 0x80

struct serial_regs {
    uint16_t divisor;
    uint8_t ier, lcr, mcr, msr, scr, fcr;
    bool overrun;
    bool thr_ipending;
    bool tx_busy;
    uint8_t rx[FIFO_DEPTH];
    unsigned rx_len;
    uint8_t pending[PENDING_MAX];
    size_t pending_len;
};

struct serial {
    pthread_mutex_t lock;
    const struct fy_dev_host *host;
    struct serial_regs r;
};

static const struct serial_regs power_on = {.divisor = 12, .msr = MSR_CTS | MSR_DSR | MSR_DCD};

static unsigned rx_depth(const struct serial_regs *r)
{
    return r->fcr & FCR_ENABLE ? FIFO_DEPTH : 1;
}

static unsigned rx_trigger(const struct serial_regs *r)
{
    static const uint8_t levels[4] = {1, 4, 8, 14};
    return r->fcr & FCR_ENABLE ? levels[r->fcr >> 6] : 1;
}

/* The interrupt identification register: the pending source of the highest priority. */
static uint8_t iir_of(const struct serial_regs *r)
{
    uint8_t fifo = r->fcr & FCR_ENABLE ? IIR_FIFO : 0;
    if (r->ier & IER_LINE && r->overrun)
        return fifo | IIR_LINE;
    if (r->ier & IER_RX && r->rx_len)
        return fifo | (r->rx_len >= rx_trigger(r) ? IIR_RX : IIR_TIMEOUT);
    if (r->ier & IER_THRE && r->thr_ipending)
        return fifo | IIR_THRE;
    if (r->ier & IER_MODEM && r->msr & MSR_DELTA)
        return fifo | IIR_MODEM;
    return fifo | IIR_NONE;
}

static uint8_t lsr_of(const struct serial_regs *r)
{
    return (uint8_t)((r->tx_busy ? 0 : LSR_EMPTY) | (r->rx_len ? LSR_DR : 0) | (r->overrun ? LSR_OE : 0));
}

static void update_irq(struct serial *s)
{
    bool wired = (s->r.mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    s->host->irq(s->host->arg, FY_GSI_SERIAL0, wired && !(iir_of(&s->r) & IIR_NONE));
}

/* Modem status lines: a modem that is always there, or in loopback the chip's own outputs. */
static void update_modem(struct serial_regs *r)
{
    uint8_t now = MSR_CTS | MSR_DSR | MSR_DCD;
    if (r->mcr & MCR_LOOP) {
        now = (uint8_t)((r->mcr & MCR_RTS ? MSR_CTS : 0) | (r->mcr & MCR_DTR ? MSR_DSR : 0) |
                        (r->mcr & MCR_OUT1 ? MSR_RI : 0) | (r->mcr & MCR_OUT2 ? MSR_DCD : 0));
    }
    uint8_t was = r->msr & (uint8_t)~MSR_DELTA;
    uint8_t delta = (uint8_t)((was ^ now) >> 4);
    /* the ring indicator reports its trailing edge only */
    if (!(was & MSR_RI && !(now & MSR_RI)))
        delta &= (uint8_t)~MSR_TERI;
    r->msr = (uint8_t)(now | (r->msr & MSR_DELTA) | delta);
}

static void receive(struct serial_regs *r, uint8_t byte)
{
    if (r->rx_len < rx_depth(r)) {
        r->rx[r->rx_len++] = byte;
        return;
    }
    r->overrun = true;
    if (!(r->fcr & FCR_ENABLE))
        r->rx[0] = byte; /* without FIFOs the new character replaces the old */
}

/* Move console input into the FIFO as far as there is room. In loopback the input pin is cut off. */
static void refill(struct serial_regs *r)
{
    if (r->mcr & MCR_LOOP || !r->pending_len || r->rx_len >= rx_depth(r))
        return;
    size_t n = FY_MIN(rx_depth(r) - r->rx_len, r->pending_len);
    memcpy(r->rx + r->rx_len, r->pending, n);
    r->rx_len += (unsigned)n;
    r->pending_len -= n;
    memmove(r->pending, r->pending + n, r->pending_len);
}

static uint8_t read_data(struct serial_regs *r)
{
    if (!r->rx_len)
        return 0;
    uint8_t byte = r->rx[0];
    memmove(r->rx, r->rx + 1, --r->rx_len);
    refill(r);
    return byte;
}

static uint8_t read_reg(struct serial *s, unsigned reg)
{
    struct serial_regs *r = &s->r;
    uint8_t v;
    switch (reg) {
    case REG_DATA:
        return r->lcr & LCR_DLAB ? (uint8_t)r->divisor : read_data(r);
    case REG_IER:
        return r->lcr & LCR_DLAB ? (uint8_t)(r->divisor >> 8) : r->ier;
    case REG_IIR:
        v = iir_of(r);
        if ((v & 0x0f) == IIR_THRE)
            r->thr_ipending = false;
        return v;
    case REG_LCR:
        return r->lcr;
    case REG_MCR:
        return r->mcr;
    case REG_LSR:
        v = lsr_of(r);
        r->overrun = false;
        return v;
    case REG_MSR:
        v = r->msr;
        r->msr &= (uint8_t)~MSR_DELTA;
        return v;
    default:
        return r->scr;
    }
}

static void write_fcr(struct serial_regs *r, uint8_t v)
{
    /* other bits are taken only with the enable bit; switching it empties both FIFOs */
    bool toggled = (r->fcr ^ v) & FCR_ENABLE;
    r->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
    if (toggled || (v & FCR_ENABLE && v & FCR_CLEAR_RX)) {
        r->rx_len = 0;
        refill(r);
    }
}

static bool out_of_room(const struct serial *s)
{
    return s->host->console_out_room && s->host->console_out_room(s->host->arg) < FY_CONSOLE_LOW;
}

/* A byte for which there is no room is lost, as one that is written to a full transmitter: LSR has said so
 * FY_CONSOLE_LOW bytes before. */
static void write_data(struct serial *s, uint8_t v)
{
    if (s->r.mcr & MCR_LOOP) {
        receive(&s->r, v);
    } else {
        s->host->console_out(s->host->arg, &v, 1);
        s->r.tx_busy = out_of_room(s);
    }
    s->r.thr_ipending = !s->r.tx_busy;
}

/* Locked. */
static void look_for_room(struct serial *s)
{
    if (!s->r.tx_busy || out_of_room(s))
        return;
    s->r.tx_busy = false;
    s->r.thr_ipending = true;
    update_irq(s);
}

static void write_reg(struct serial *s, unsigned reg, uint8_t v)
{
    struct serial_regs *r = &s->r;
    switch (reg) {
    case REG_DATA:
        if (r->lcr & LCR_DLAB)
            r->divisor = (uint16_t)((r->divisor & 0xff00) | v);
        else
            write_data(s, v);
        break;
    case REG_IER:
        if (r->lcr & LCR_DLAB) {
            r->divisor = (uint16_t)((r->divisor & 0x00ff) | v << 8);
            break;
        }
        /* enabling THRE with an empty transmitter interrupts at once */
        if (v & IER_THRE && !(r->ier & IER_THRE) && !r->tx_busy)
            r->thr_ipending = true;
        r->ier = v & IER_MASK;
        break;
    case REG_IIR:
        write_fcr(r, v);
        break;
    case REG_LCR:
        r->lcr = v;
        break;
    case REG_MCR:
        r->mcr = v & MCR_MASK;
        update_modem(r);
        refill(r);
        break;
    case REG_SCR:
        r->scr = v;
        break;
    default:
        break; /* LSR and MSR are read-only */
    }
}

/* The ISA bus splits wide accesses into bytes. */
static uint64_t serial_read(void *dev, uint64_t offset, unsigned size)
{
    struct serial *s = dev;
    uint64_t v = 0;
    pthread_mutex_lock(&s->lock);
    size_t before = s->r.pending_len;
    for (unsigned i = 0; i < size; i++)
        v |= (uint64_t)read_reg(s, (unsigned)(offset + i) & 7) << (8 * i);
    update_irq(s);
    bool room = s->r.pending_len < before;
    pthread_mutex_unlock(&s->lock);
    if (room && s->host->console_room)
        s->host->console_room(s->host->arg);
    return v;
}

static void serial_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct serial *s = dev;
    pthread_mutex_lock(&s->lock);
    size_t before = s->r.pending_len;
    for (unsigned i = 0; i < size; i++)
        write_reg(s, (unsigned)(offset + i) & 7, (uint8_t)(value >> (8 * i)));
    update_irq(s);
    bool room = s->r.pending_len < before;
    pthread_mutex_unlock(&s->lock);
    if (room && s->host->console_room)
        s->host->console_room(s->host->arg);
}

size_t fy_serial_input(struct fy_device *serial, const uint8_t *buf, size_t len)
{
    struct serial *s = serial->dev;
    pthread_mutex_lock(&s->lock);
    size_t n = FY_MIN(len, PENDING_MAX - s->r.pending_len);
    memcpy(s->r.pending + s->r.pending_len, buf, n);
    s->r.pending_len += n;
    refill(&s->r);
    update_irq(s);
    pthread_mutex_unlock(&s->lock);
    return n;
}

size_t fy_serial_input_room(struct fy_device *serial)
{
    struct serial *s = serial->dev;
    pthread_mutex_lock(&s->lock);
    size_t room = PENDING_MAX - s->r.pending_len;
    pthread_mutex_unlock(&s->lock);
    return room;
}

void fy_serial_output_room(struct fy_device *serial)
{
    struct serial *s = serial->dev;
    pthread_mutex_lock(&s->lock);
    look_for_room(s);
    pthread_mutex_unlock(&s->lock);
}

static int serial_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct serial *s = dev;
    Ferry__Serial16550 m = FERRY__SERIAL16550__INIT;
    pthread_mutex_lock(&s->lock);
    struct serial_regs *r = &s->r;
    m.divisor = r->divisor;
    m.ier = r->ier;
    m.iir = iir_of(r);
    m.lcr = r->lcr;
    m.mcr = r->mcr;
    m.lsr = lsr_of(r);
    m.msr = r->msr;
    m.scr = r->scr;
    m.fcr = r->fcr;
    m.rx = (ProtobufCBinaryData){.len = r->rx_len, .data = r->rx};
    m.thr_ipending = r->thr_ipending;
    m.tx_busy = r->tx_busy;
    m.pending_input = (ProtobufCBinaryData){.len = r->pending_len, .data = r->pending};
    int rc = fy_state_pack(&m.base, buf, len, e);
    pthread_mutex_unlock(&s->lock);
    return rc;
}

static int bad(struct fy_err *e, const char *what, uint32_t value)
{
    return fy_fail(e, FY_ECORRUPT, "serial0: %s is %#x, which the chip cannot hold", what, value);
}

/* Scratch registers from a message, every field in its range and in its relation to the others. */
static int serial_parse(const Ferry__Serial16550 *m, struct serial_regs *r, struct fy_err *e)
{
    if (m->divisor > 0xffff)
        return bad(e, "divisor", m->divisor);
    if (m->ier & ~(uint32_t)IER_MASK)
        return bad(e, "ier", m->ier);
    if (m->lcr > 0xff)
        return bad(e, "lcr", m->lcr);
    if (m->mcr & ~(uint32_t)MCR_MASK)
        return bad(e, "mcr", m->mcr);
    if (m->msr > 0xff)
        return bad(e, "msr", m->msr);
    if (m->scr > 0xff)
        return bad(e, "scr", m->scr);
    if (m->fcr & ~(uint32_t)FCR_KEPT || (m->fcr && !(m->fcr & FCR_ENABLE)))
        return bad(e, "fcr", m->fcr);
    if (m->pending_input.len > PENDING_MAX)
        return bad(e, "length of pending_input", (uint32_t)FY_MIN(m->pending_input.len, UINT32_MAX));
    *r = (struct serial_regs){.divisor = (uint16_t)m->divisor,
                              .ier = (uint8_t)m->ier,
                              .lcr = (uint8_t)m->lcr,
                              .mcr = (uint8_t)m->mcr,
                              .msr = (uint8_t)m->msr,
                              .scr = (uint8_t)m->scr,
                              .fcr = (uint8_t)m->fcr,
                              .overrun = m->lsr & LSR_OE,
                              .thr_ipending = m->thr_ipending,
                              .tx_busy = m->tx_busy};
    if (r->tx_busy && r->thr_ipending)
        return bad(e, "thr_ipending of a busy transmitter", 1);
    if (m->rx.len > rx_depth(r))
        return bad(e, "length of rx", (uint32_t)FY_MIN(m->rx.len, UINT32_MAX));
    r->rx_len = (unsigned)m->rx.len;
    if (r->rx_len)
        memcpy(r->rx, m->rx.data, r->rx_len);
    r->pending_len = m->pending_input.len;
    if (r->pending_len)
        memcpy(r->pending, m->pending_input.data, r->pending_len);
    if (m->lsr != lsr_of(r))
        return bad(e, "lsr", m->lsr);
    if (m->iir != iir_of(r))
        return bad(e, "iir", m->iir);
    struct serial_regs lines = *r;
    update_modem(&lines);
    if (lines.msr != r->msr)
        return bad(e, "msr", m->msr);
    refill(r);
    return 0;
}

static int serial_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct serial *s = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__serial16550__descriptor, "serial0", buf, len, e);
    if (!msg)
        return -1;
    struct serial_regs r;
    int rc = serial_parse((const Ferry__Serial16550 *)msg, &r, e);
    protobuf_c_message_free_unpacked(msg, NULL);
    if (rc)
        return -1;
    pthread_mutex_lock(&s->lock);
    s->r = r;
    update_irq(s);
    pthread_mutex_unlock(&s->lock);
    return 0;
}

static void serial_reset(void *dev)
{
    struct serial *s = dev;
    pthread_mutex_lock(&s->lock);
    s->r = power_on;
    update_irq(s);
    pthread_mutex_unlock(&s->lock);
}

static void serial_resume(void *dev)
{
    struct serial *s = dev;
    pthread_mutex_lock(&s->lock);
    look_for_room(s);
    pthread_mutex_unlock(&s->lock);
}

static void serial_free(void *dev)
{
    struct serial *s = dev;
    pthread_mutex_destroy(&s->lock);
    free(s);
}

static const struct fy_dev_ops serial_ops = {
    .type = "16550a",
    .version = 1,
    .save = serial_save,
    .load = serial_load,
    .reset = serial_reset,
    .resume = serial_resume,
    .free = serial_free,
};

int fy_serial_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = serial_read, .write = serial_write};
    struct serial *s = calloc(1, sizeof *s);
    if (!s)
        return fy_fail(e, FY_ERESOURCE, "no memory for the serial port");
    pthread_mutex_init(&s->lock, NULL);
    s->host = host;
    s->r = power_on;
    if (fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_SERIAL0, REG_COUNT, &io, s, e)) {
        serial_free(s);
        return -1;
    }
    *out = (struct fy_device){.id = "serial0", .ops = &serial_ops, .dev = s};
    return 0;
}
