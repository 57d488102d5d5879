// SPDX-License-Identifier: Apache-2.0
/* 8254 timer (Intel 82C54 datasheet, order 231244) and the speaker port, whose bit 5 is channel 2's output.
 * Counts are computed from the time since their load; only channel 0 has a timer, since only its output is
 * wired to an interrupt. */
#include "hv/cpu/soft/chips/internal.h"

#define PIT_HZ 1193182u
#define NO_MODE 255

enum { LSB = 1, MSB = 2, WORD0 = 3, WORD1 = 4 }; /* read_state, write_state, and count_latched */

static uint64_t ticks_since(const struct soft_chips *ch, const struct pit_channel *c)
{
    /* A count that came with a loaded state may be older than this machine's clock. */
    int64_t since = (int64_t)(soft_clock_ns(ch->vm) - c->loaded);
    uint64_t ns = since > 0 ? (uint64_t)since : 0;
    return (uint64_t)((unsigned __int128)ns * PIT_HZ / 1000000000u);
}

static uint64_t at_tick(const struct pit_channel *c, uint64_t tick)
{
    /* Rounded up: at that time the tick has passed. */
    return c->loaded + (uint64_t)(((unsigned __int128)tick * 1000000000u + PIT_HZ - 1) / PIT_HZ);
}

static uint16_t counter(const struct soft_chips *ch, const struct pit_channel *c)
{
    uint64_t d = ticks_since(ch, c);
    switch (c->mode) {
    case 0:
    case 1:
    case 4:
    case 5:
        return (uint16_t)(c->count - d);
    case 3:
    case 7:
        return (uint16_t)(c->count - (2 * d) % c->count);
    default:
        return (uint16_t)(c->count - d % c->count);
    }
}

static bool output(const struct soft_chips *ch, const struct pit_channel *c)
{
    uint64_t d = ticks_since(ch, c);
    switch (c->mode) {
    case 0:
        return d >= c->count;
    case 1:
        return d >= c->count; /* low from the trigger to the end */
    case 2:
    case 6:
        return d % c->count != c->count - 1;
    case 3:
    case 7:
        return d % c->count < (c->count + 1) / 2;
    case 4:
    case 5:
        return d != c->count;
    default:
        return true;
    }
}

/* When channel 0's output rises next, or NEVER. */
void pit_rearm(struct soft_chips *ch)
{
    const struct pit_channel *c = &ch->pit[0];
    uint64_t d = ticks_since(ch, c);
    uint64_t due = NEVER;
    switch (c->null_count ? NO_MODE : c->mode) {
    case 0:
    case 1:
    case 4:
    case 5:
        if (d < c->count)
            due = at_tick(c, c->count);
        break;
    case 2:
    case 3:
    case 6:
    case 7:
        if (c->gate)
            due = at_tick(c, (d / c->count + 1) * c->count);
        break;
    default:
        break;
    }
    ch->pit_due = due;
}

void pit_fire(struct soft_chips *ch, uint64_t now)
{
    if (now < ch->pit_due)
        return;
    chips_line(ch, 0, true);
    chips_line(ch, 0, false);
    pit_rearm(ch);
}

static void load(struct soft_chips *ch, struct pit_channel *c, uint32_t v)
{
    c->count = v ? v : 65536;
    if (c->bcd && v) /* each digit a decimal one */
        c->count = (v & 15) + (v >> 4 & 15) * 10 + (v >> 8 & 15) * 100 + (v >> 12 & 15) * 1000;
    else if (c->bcd)
        c->count = 10000;
    c->count = c->count ? c->count : 65536;
    c->null_count = false;
    c->loaded = soft_clock_ns(ch->vm);
    if (c == &ch->pit[0]) {
        pit_rearm(ch);
        chips_timer_changed(ch);
    }
}

static void latch_count(struct soft_chips *ch, struct pit_channel *c)
{
    if (c->count_latched)
        return;
    c->latched_count = counter(ch, c);
    c->count_latched = c->rw_mode;
}

static void latch_status(struct soft_chips *ch, struct pit_channel *c)
{
    if (c->status_latched)
        return;
    c->status = (uint8_t)(output(ch, c) << 7 | c->rw_mode << 4 | (c->mode & 7) << 1 | c->bcd);
    c->status_latched = true;
}

static void control(struct soft_chips *ch, uint8_t v)
{
    unsigned n = v >> 6;
    if (n == 3) {
        for (unsigned i = 0; i < 3; i++) {
            if (!(v >> (i + 1) & 1))
                continue;
            if (!(v & 0x20))
                latch_count(ch, &ch->pit[i]);
            if (!(v & 0x10))
                latch_status(ch, &ch->pit[i]);
        }
        return;
    }
    struct pit_channel *c = &ch->pit[n];
    unsigned access = v >> 4 & 3;
    if (!access) {
        latch_count(ch, c);
        return;
    }
    c->rw_mode = (uint8_t)access;
    c->read_state = c->write_state = (uint8_t)access;
    c->mode = v >> 1 & 7;
    c->mode = c->mode > 5 ? c->mode & 3 : c->mode;
    c->bcd = v & 1;
    c->null_count = true; /* counting begins with the load */
    if (n == 0) {
        ch->pit_due = NEVER;
        chips_timer_changed(ch);
    }
}

static void set_gate(struct soft_chips *ch, struct pit_channel *c, bool gate)
{
    bool rising = gate && !c->gate;
    c->gate = gate;
    if (rising && (c->mode == 1 || c->mode == 2 || c->mode == 3 || c->mode == 5))
        c->loaded = soft_clock_ns(ch->vm);
}

void pit_write(struct soft_chips *ch, uint16_t port, uint8_t v)
{
    if (port == 0x61) {
        ch->speaker_on = v >> 1 & 1;
        set_gate(ch, &ch->pit[2], v & 1);
        return;
    }
    if (port == 0x43) {
        control(ch, v);
        return;
    }
    struct pit_channel *c = &ch->pit[port & 3];
    switch (c->write_state) {
    case LSB:
        load(ch, c, v);
        break;
    case MSB:
        load(ch, c, (uint32_t)v << 8);
        break;
    case WORD0:
        c->write_latch = v;
        c->write_state = WORD1;
        break;
    case WORD1:
        c->write_state = WORD0;
        load(ch, c, c->write_latch | (uint32_t)v << 8);
        break;
    default:
        break;
    }
}

static uint8_t read_latched(struct pit_channel *c)
{
    switch (c->count_latched) {
    case MSB:
        c->count_latched = 0;
        return (uint8_t)(c->latched_count >> 8);
    case WORD0:
        c->count_latched = MSB;
        return (uint8_t)c->latched_count;
    default:
        c->count_latched = 0;
        return (uint8_t)c->latched_count;
    }
}

uint8_t pit_read(struct soft_chips *ch, uint16_t port)
{
    if (port == 0x61) {
        /* Bit 4 toggles with each memory refresh, every 15 us. */
        unsigned refresh = soft_clock_ns(ch->vm) / 15085 & 1;
        return (uint8_t)(ch->pit[2].gate | ch->speaker_on << 1 | refresh << 4 | output(ch, &ch->pit[2]) << 5);
    }
    if (port == 0x43)
        return 0;
    struct pit_channel *c = &ch->pit[port & 3];
    if (c->status_latched) {
        c->status_latched = false;
        return c->status;
    }
    if (c->count_latched)
        return read_latched(c);
    uint16_t v = counter(ch, c);
    switch (c->read_state) {
    case MSB:
        return (uint8_t)(v >> 8);
    case WORD0:
        c->read_state = WORD1;
        return (uint8_t)v;
    case WORD1:
        c->read_state = WORD0;
        return (uint8_t)(v >> 8);
    default:
        return (uint8_t)v;
    }
}

void pit_reset(struct soft_chips *ch)
{
    for (unsigned i = 0; i < 3; i++)
        ch->pit[i] = (struct pit_channel){
            .count = 65536, .mode = NO_MODE, .gate = i != 2, .loaded = soft_clock_ns(ch->vm)};
    ch->speaker_on = false;
    ch->pit_due = NEVER;
}
