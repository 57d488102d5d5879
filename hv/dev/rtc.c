// SPDX-License-Identifier: Apache-2.0
/* MC146818 real-time clock and its CMOS (Motorola MC146818A data sheet; the century byte 0x32 as PCs have
 * it). The time is host UTC plus an offset that the guest sets by writing the time; while the SET bit or the
 * divider's reset stops the clock, the time registers are plain memory. Interrupts are timers of the host's
 * loop, armed only while one of them is enabled. */
#include <pthread.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/dev/chips.h"
#include "hv/dev/platform.h"
#include "hv/dev/rtc_time.h"
#include "hv/dev/state.h"
#include "proto/state.pb-c.h"

#define A_UIP 0x80
#define A_DIVIDER 0x70
#define A_DIVIDER_RESET 0x60 /* both high divider bits: the chain is held in reset */
#define A_RATE 0x0f
#define B_SET 0x80
#define B_PIE 0x40
#define B_AIE 0x20
#define B_UIE 0x10
#define C_IRQ 0x80
#define C_PF 0x40
#define C_AF 0x20
#define C_UF 0x10
#define D_VALID 0x80

#define NS_PER_S 1000000000ull
#define UIP_NS 244000ull  /* UIP rises this long before the update */
#define PAUSED_POLL_MS 10 /* how often a due timer looks whether the machine runs again */
#define OFFSET_MAX (10000ll * 366 * 86400)
#define NEVER UINT64_MAX

struct rtc_regs {
    uint8_t cmos[RTC_CMOS];
    uint8_t index;
    int64_t offset_s;
    bool frozen;
    int64_t frozen_s;
    uint64_t periodic_due; /* guest clock, 0: off */
};

struct rtc {
    pthread_mutex_t lock;
    const struct fy_dev_host *host;
    struct rtc_regs r;
    int64_t updated_s; /* the last second whose update (UF, AF) has been taken into register C */
    struct fy_watch *timer;
    bool posted; /* a rearm is on its way to the loop's thread */
    bool dead;   /* freed by its owner while posted; the callback frees it */
};

static uint64_t now_ns(const struct rtc *t)
{
    const struct fy_dev_host *h = t->host;
    if (h->realtime_ns)
        return h->realtime_ns(h->arg);
    /* whole seconds from the host, their phase from the system's clock: only UIP depends on it */
    for (unsigned i = 0; i < 4; i++) {
        int64_t s = h->realtime_s(h->arg);
        uint64_t ns = fy_realtime_ns();
        if (s == h->realtime_s(h->arg))
            return (uint64_t)s * NS_PER_S + ns % NS_PER_S;
    }
    return (uint64_t)h->realtime_s(h->arg) * NS_PER_S;
}

static int64_t guest_s(const struct rtc *t)
{
    int64_t s = t->r.frozen ? t->r.frozen_s : (int64_t)(now_ns(t) / NS_PER_S) + t->r.offset_s;
    return FY_MAX(FY_MIN(s, RTC_MAX_S), RTC_MIN_S);
}

static bool stopped(const struct rtc_regs *r)
{
    return r->cmos[RTC_B] & B_SET || (r->cmos[RTC_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* Periodic interval in ns of the rate bits; 0: off. Rates 1 and 2 are 256 and 128 Hz at a 32 kHz base. */
static uint64_t periodic_ns(const struct rtc_regs *r)
{
    unsigned rate = r->cmos[RTC_A] & A_RATE;
    if (!rate)
        return 0;
    if (rate < 3)
        rate += 7;
    return (1ull << (rate - 1)) * NS_PER_S / 32768;
}

static void update_irq(struct rtc *t)
{
    uint8_t *c = &t->r.cmos[RTC_C];
    bool on = *c & t->r.cmos[RTC_B] & (C_PF | C_AF | C_UF);
    *c = (uint8_t)((*c & ~C_IRQ) | (on ? C_IRQ : 0));
    t->host->irq(t->host->arg, FY_GSI_RTC, on);
}

static bool running(const struct rtc *t)
{
    return !t->host->running || t->host->running(t->host->arg);
}

/* Bring register C up to now: updates and alarms of seconds that have begun, periodic ticks that are due. */
static void catch_up(struct rtc *t)
{
    struct rtc_regs *r = &t->r;
    uint64_t period = periodic_ns(r);
    if (!running(t))
        return;
    if (r->periodic_due && period) {
        uint64_t g = t->host->guest_ns(t->host->arg);
        if (g >= r->periodic_due) {
            r->cmos[RTC_C] |= C_PF;
            r->periodic_due += ((g - r->periodic_due) / period + 1) * period;
        }
    }
    if (!r->frozen) {
        int64_t s = guest_s(t);
        if (s != t->updated_s) {
            r->cmos[RTC_C] |= C_UF;
            if (fy_rtc_alarm_between(r->cmos, t->updated_s, s))
                r->cmos[RTC_C] |= C_AF;
            t->updated_s = s;
        }
    }
    update_irq(t);
}

/* Nanoseconds to the next event that raises an interrupt, or NEVER. */
static uint64_t next_event_ns(struct rtc *t)
{
    const struct rtc_regs *r = &t->r;
    uint64_t ns = NEVER;
    if (r->cmos[RTC_C] & C_IRQ)
        return ns; /* nothing new can rise before the guest reads register C, and that arms again */
    if (r->cmos[RTC_B] & B_PIE && r->periodic_due) {
        uint64_t g = t->host->guest_ns(t->host->arg);
        ns = r->periodic_due > g ? r->periodic_due - g : 0;
    }
    if (r->cmos[RTC_B] & (B_UIE | B_AIE) && !r->frozen)
        ns = FY_MIN(ns, NS_PER_S - now_ns(t) % NS_PER_S);
    return ns;
}

/* Milliseconds to it, 0 for none. */
static uint64_t next_event_ms(struct rtc *t)
{
    uint64_t ns = next_event_ns(t);
    if (ns == NEVER)
        return 0;
    if (!running(t))
        return PAUSED_POLL_MS;
    return FY_DIV_UP(ns, 1000000) + (ns == 0);
}

/* On the loop's thread. The lock is held. */
static void arm(struct rtc *t)
{
    uint64_t ms = next_event_ms(t);
    if (ms)
        fy_timer_arm(t->timer, ms);
    else
        fy_timer_disarm(t->timer);
}

static void on_timer(void *arg)
{
    struct rtc *t = arg;
    pthread_mutex_lock(&t->lock);
    catch_up(t);
    arm(t);
    pthread_mutex_unlock(&t->lock);
}

/* The lock is held. */
static void arm_guest_time(struct rtc *t)
{
    uint64_t ns = next_event_ns(t);
    t->host->wake_at(t->host->arg, ns == NEVER ? NEVER : t->host->guest_ns(t->host->arg) + ns);
}

void fy_rtc_wake(struct fy_device *rtc)
{
    struct rtc *t = rtc->dev;
    pthread_mutex_lock(&t->lock);
    catch_up(t);
    arm_guest_time(t);
    pthread_mutex_unlock(&t->lock);
}

static void destroy(struct rtc *t)
{
    pthread_mutex_destroy(&t->lock);
    free(t);
}

static void on_posted(void *arg)
{
    struct rtc *t = arg;
    pthread_mutex_lock(&t->lock);
    t->posted = false;
    bool dead = t->dead;
    if (!dead)
        arm(t);
    pthread_mutex_unlock(&t->lock);
    if (dead)
        destroy(t);
}

/* A register that decides about timers has changed; the loop's thread arms anew. The lock is held. */
static void rearm(struct rtc *t)
{
    if (t->host->wake_at)
        arm_guest_time(t);
    if (!t->timer || t->posted)
        return;
    if (!(t->r.cmos[RTC_B] & (B_PIE | B_AIE | B_UIE)))
        return; /* a timer that is still armed does no harm and is not armed again */
    t->posted = fy_loop_post(t->host->loop, on_posted, t, NULL) == 0;
}

static uint8_t read_cmos(struct rtc *t, uint8_t index)
{
    struct rtc_regs *r = &t->r;
    uint8_t v;
    catch_up(t);
    switch (index) {
    case RTC_A:
        v = r->cmos[RTC_A];
        if (!r->frozen && now_ns(t) % NS_PER_S >= NS_PER_S - UIP_NS)
            v |= A_UIP;
        return v;
    case RTC_C:
        v = r->cmos[RTC_C];
        r->cmos[RTC_C] = 0;
        update_irq(t);
        rearm(t);
        return v;
    default:
        if (fy_rtc_is_time(index) && !r->frozen)
            fy_rtc_encode(r->cmos, guest_s(t));
        return r->cmos[index];
    }
}

/* Start or stop the clock as registers A and B say. */
static void set_frozen(struct rtc *t)
{
    struct rtc_regs *r = &t->r;
    bool stop = stopped(r);
    if (stop == r->frozen)
        return;
    if (stop) {
        r->frozen_s = guest_s(t);
        fy_rtc_encode(r->cmos, r->frozen_s);
        r->frozen = true;
        return;
    }
    fy_rtc_decode(r->cmos, &r->frozen_s); /* what cannot be read leaves the time as it stood */
    r->offset_s = r->frozen_s - (int64_t)(now_ns(t) / NS_PER_S);
    r->frozen = false;
    t->updated_s = r->frozen_s;
}

static void write_time(struct rtc *t, uint8_t index, uint8_t v)
{
    struct rtc_regs *r = &t->r;
    int64_t s;
    if (!r->frozen)
        fy_rtc_encode(r->cmos, guest_s(t));
    r->cmos[index] = v;
    if (fy_rtc_decode(r->cmos, &s))
        return;
    if (r->frozen) {
        r->frozen_s = s;
    } else {
        r->offset_s = s - (int64_t)(now_ns(t) / NS_PER_S);
        t->updated_s = s;
    }
}

static void restart_periodic(struct rtc *t)
{
    uint64_t period = periodic_ns(&t->r);
    t->r.periodic_due = period ? t->host->guest_ns(t->host->arg) + period : 0;
}

static void write_cmos(struct rtc *t, uint8_t index, uint8_t v)
{
    struct rtc_regs *r = &t->r;
    catch_up(t);
    switch (index) {
    case RTC_A:
        v &= (uint8_t)~A_UIP;
        if ((r->cmos[RTC_A] ^ v) & A_RATE) {
            r->cmos[RTC_A] = v;
            restart_periodic(t);
        }
        r->cmos[RTC_A] = v;
        set_frozen(t);
        break;
    case RTC_B:
        if (v & B_SET)
            v &= (uint8_t)~B_UIE; /* setting the clock forbids update interrupts */
        if (!r->frozen && !(v & B_SET))
            fy_rtc_encode(r->cmos, guest_s(t));
        r->cmos[RTC_B] = v;
        set_frozen(t);
        update_irq(t);
        break;
    case RTC_C:
    case RTC_D:
        break;
    default:
        if (fy_rtc_is_time(index))
            write_time(t, index, v);
        else
            r->cmos[index] = v;
    }
    rearm(t);
}

/* Port 0x70: index (bit 7 is the NMI mask, not kept); 0x71: data. */
static uint64_t rtc_read(void *dev, uint64_t offset, unsigned size)
{
    struct rtc *t = dev;
    if (offset == 0)
        return size == 1 ? 0xff : 0xffff;
    pthread_mutex_lock(&t->lock);
    uint8_t v = read_cmos(t, t->r.index);
    pthread_mutex_unlock(&t->lock);
    return v;
}

static void rtc_write(void *dev, uint64_t offset, unsigned size, uint64_t value)
{
    struct rtc *t = dev;
    pthread_mutex_lock(&t->lock);
    for (unsigned i = 0; i < size && offset + i < 2; i++) {
        uint8_t v = (uint8_t)(value >> (8 * i));
        if (offset + i == 0)
            t->r.index = v & (RTC_CMOS - 1);
        else
            write_cmos(t, t->r.index, v);
    }
    pthread_mutex_unlock(&t->lock);
}

/* A tick that is due and not taken yet goes along as one that has been, and the next keeps the phase. */
static uint64_t periodic_distance(const struct rtc *t, uint8_t *cmos)
{
    const struct rtc_regs *r = &t->r;
    uint64_t period = periodic_ns(r), g = t->host->guest_ns(t->host->arg);
    if (r->periodic_due > g || !period)
        return r->periodic_due > g ? r->periodic_due - g : 0;
    cmos[RTC_C] |= C_PF;
    if (cmos[RTC_B] & C_PF)
        cmos[RTC_C] |= C_IRQ;
    return period - (g - r->periodic_due) % period;
}

static int rtc_save(void *dev, uint8_t **buf, size_t *len, struct fy_err *e)
{
    struct rtc *t = dev;
    Ferry__Rtc m = FERRY__RTC__INIT;
    uint8_t cmos[RTC_CMOS];
    pthread_mutex_lock(&t->lock);
    const struct rtc_regs *r = &t->r;
    memcpy(cmos, r->cmos, sizeof cmos);
    m.index = r->index;
    m.offset_s = r->offset_s;
    m.frozen = r->frozen;
    m.frozen_s = r->frozen ? r->frozen_s : 0;
    m.updated_s = t->updated_s;
    m.periodic_on = r->periodic_due != 0;
    if (r->periodic_due)
        m.periodic_due_ns = periodic_distance(t, cmos);
    pthread_mutex_unlock(&t->lock);
    m.cmos = (ProtobufCBinaryData){.len = sizeof cmos, .data = cmos};
    return fy_state_pack(&m.base, buf, len, e);
}

static int rtc_parse(const Ferry__Rtc *m, struct rtc_regs *r, struct fy_err *e)
{
    if (m->cmos.len != RTC_CMOS)
        return fy_fail(e, FY_ECORRUPT, "rtc: cmos has %zu bytes, must have %d", m->cmos.len, RTC_CMOS);
    if (m->index >= RTC_CMOS)
        return fy_fail(e, FY_ECORRUPT, "rtc: index is %u, must be below %d", m->index, RTC_CMOS);
    if (m->offset_s < -OFFSET_MAX || m->offset_s > OFFSET_MAX)
        return fy_fail(e, FY_ECORRUPT, "rtc: offset_s is %lld, out of range", (long long)m->offset_s);
    if (m->frozen_s < RTC_MIN_S || m->frozen_s > RTC_MAX_S)
        return fy_fail(e, FY_ECORRUPT, "rtc: frozen_s is %lld, out of range", (long long)m->frozen_s);
    *r = (struct rtc_regs){
        .index = (uint8_t)m->index, .offset_s = m->offset_s, .frozen = m->frozen, .frozen_s = m->frozen_s};
    memcpy(r->cmos, m->cmos.data, RTC_CMOS);
    if (r->cmos[RTC_A] & A_UIP || r->cmos[RTC_C] & 0x0f || r->cmos[RTC_D] != D_VALID)
        return fy_fail(e, FY_ECORRUPT, "rtc: registers A %#x, C %#x, D %#x hold bits that are never stored",
                       r->cmos[RTC_A], r->cmos[RTC_C], r->cmos[RTC_D]);
    bool irq = r->cmos[RTC_C] & r->cmos[RTC_B] & (C_PF | C_AF | C_UF);
    if (irq != !!(r->cmos[RTC_C] & C_IRQ))
        return fy_fail(e, FY_ECORRUPT, "rtc: register C %#x contradicts register B %#x", r->cmos[RTC_C],
                       r->cmos[RTC_B]);
    if (m->frozen != stopped(r))
        return fy_fail(e, FY_ECORRUPT, "rtc: frozen contradicts registers A %#x and B %#x", r->cmos[RTC_A],
                       r->cmos[RTC_B]);
    uint64_t period = periodic_ns(r);
    if (m->periodic_on != (period != 0) || m->periodic_due_ns > period)
        return fy_fail(e, FY_ECORRUPT, "rtc: periodic tick in %llu ns contradicts register A %#x",
                       (unsigned long long)m->periodic_due_ns, r->cmos[RTC_A]);
    r->periodic_due = m->periodic_on ? m->periodic_due_ns : 0; /* a distance until committed */
    return 0;
}

static int rtc_load(void *dev, const uint8_t *buf, size_t len, struct fy_err *e)
{
    struct rtc *t = dev;
    ProtobufCMessage *msg = fy_state_unpack(&ferry__rtc__descriptor, "rtc", buf, len, e);
    if (!msg)
        return -1;
    struct rtc_regs r;
    bool periodic = ((const Ferry__Rtc *)msg)->periodic_on;
    int64_t updated_s = ((const Ferry__Rtc *)msg)->updated_s;
    int rc = rtc_parse((const Ferry__Rtc *)msg, &r, e);
    protobuf_c_message_free_unpacked(msg, NULL);
    if (rc)
        return -1;
    pthread_mutex_lock(&t->lock);
    t->r = r;
    if (periodic)
        t->r.periodic_due = FY_MAX(r.periodic_due + t->host->guest_ns(t->host->arg), 1);
    t->updated_s = updated_s; /* an alarm that falls into the pause still rings */
    update_irq(t);
    rearm(t);
    pthread_mutex_unlock(&t->lock);
    return 0;
}

static void rtc_reset(void *dev)
{
    struct rtc *t = dev;
    pthread_mutex_lock(&t->lock);
    /* the RESET pin clears interrupt enables and flags; time and CMOS are on the battery */
    t->r.cmos[RTC_B] &= (uint8_t) ~(B_PIE | B_AIE | B_UIE);
    t->r.cmos[RTC_C] = 0;
    t->r.index = 0;
    update_irq(t);
    pthread_mutex_unlock(&t->lock);
}

static void rtc_free(void *dev)
{
    struct rtc *t = dev;
    fy_watch_free(t->timer);
    pthread_mutex_lock(&t->lock);
    bool posted = t->posted;
    t->dead = true;
    pthread_mutex_unlock(&t->lock);
    if (!posted)
        destroy(t);
}

static const struct fy_dev_ops rtc_ops = {
    .type = "mc146818",
    .version = 1,
    .save = rtc_save,
    .load = rtc_load,
    .reset = rtc_reset,
    .free = rtc_free,
};

/* The bytes in which a PC's firmware leaves the memory size: base and extended memory in KiB, memory above
 * 16 MiB and above 4 GiB in 64 KiB units. */
static void fill_memory_size(uint8_t *cmos, uint64_t bytes)
{
    uint64_t below = FY_MIN(bytes, 0xc0000000ull);
    uint64_t extended = FY_MIN(below > 0x100000 ? (below - 0x100000) >> 10 : 0, 0xffff);
    uint64_t above16m = FY_MIN(below > 0x1000000 ? (below - 0x1000000) >> 16 : 0, 0xffff);
    uint64_t above4g = FY_MIN((bytes - below) >> 16, 0xffffff);
    cmos[0x15] = 640 & 0xff;
    cmos[0x16] = 640 >> 8;
    cmos[0x17] = cmos[0x30] = (uint8_t)extended;
    cmos[0x18] = cmos[0x31] = (uint8_t)(extended >> 8);
    cmos[0x34] = (uint8_t)above16m;
    cmos[0x35] = (uint8_t)(above16m >> 8);
    cmos[0x5b] = (uint8_t)above4g;
    cmos[0x5c] = (uint8_t)(above4g >> 8);
    cmos[0x5d] = (uint8_t)(above4g >> 16);
}

int fy_rtc_new(struct fy_bus *bus, const struct fy_dev_host *host, uint64_t memory_bytes,
               struct fy_device *out, struct fy_err *e)
{
    static const struct fy_io_ops io = {.read = rtc_read, .write = rtc_write};
    struct rtc *t = calloc(1, sizeof *t);
    if (!t)
        return fy_fail(e, FY_ERESOURCE, "no memory for the RTC");
    pthread_mutex_init(&t->lock, NULL);
    t->host = host;
    t->r.cmos[RTC_A] = 0x26; /* 32.768 kHz, 1024 Hz */
    t->r.cmos[RTC_B] = RTC_B_24H;
    t->r.cmos[RTC_D] = D_VALID;
    fill_memory_size(t->r.cmos, memory_bytes);
    restart_periodic(t);
    t->updated_s = guest_s(t);
    if (host->loop) {
        t->timer = fy_timer_new(host->loop, on_timer, t, e);
        if (!t->timer)
            goto fail;
    }
    if (fy_bus_add(bus, FY_SPACE_PORT, FY_PORT_RTC, 2, &io, t, e))
        goto fail;
    *out = (struct fy_device){.id = "rtc", .ops = &rtc_ops, .dev = t};
    return 0;
fail:
    rtc_free(t);
    return -1;
}
