// SPDX-License-Identifier: Apache-2.0
/* I/O APIC with 24 pins (Intel 82093AA datasheet, order 290566). irr: for level pins the line, for edge pins
 * the line since its last edge, as KVM keeps it. */
#include "hv/cpu/soft/chips/internal.h"

#define RTE_LOGICAL (1ull << 11)
#define RTE_STATUS (1ull << 12)
#define RTE_REMOTE (1ull << 14)
#define RTE_LEVEL (1ull << 15)
#define RTE_MASKED (1ull << 16)
#define RTE_READ_ONLY (RTE_STATUS | RTE_REMOTE)

void ioapic_reset(struct soft_chips *ch)
{
    ch->ioapic.select = ch->ioapic.id = ch->ioapic.irr = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        ch->ioapic.redirection[i] = RTE_MASKED;
}

static void deliver(struct soft_chips *ch, unsigned pin)
{
    uint64_t *e = &ch->ioapic.redirection[pin];
    bool level = *e & RTE_LEVEL;
    if (*e & RTE_MASKED || (level && *e & RTE_REMOTE))
        return;
    unsigned mode = *e >> 8 & 7;
    /* ExtINT through the I/O APIC: the vector is the PIC's; Linux does not use it, and the PICs reach LINT0
     * here. */
    unsigned took = mode == D_EXTINT ? 0
                                     : lapic_message(ch, NULL, (uint32_t)(*e >> 56), *e & RTE_LOGICAL, 0,
                                                     mode, (uint8_t)*e, level, true);
    if (level && took)
        *e |= RTE_REMOTE;
}

void ioapic_set(struct soft_chips *ch, unsigned pin, bool level)
{
    uint32_t bit = 1u << pin;
    bool was = ch->ioapic.irr & bit;
    if (!level) {
        ch->ioapic.irr &= ~bit;
        return;
    }
    ch->ioapic.irr |= bit;
    if (!was || ch->ioapic.redirection[pin] & RTE_LEVEL)
        deliver(ch, pin);
}

void ioapic_eoi(struct soft_chips *ch, uint8_t vector)
{
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        uint64_t *e = &ch->ioapic.redirection[i];
        if ((uint8_t)*e != vector || !(*e & RTE_LEVEL) || !(*e & RTE_REMOTE))
            continue;
        *e &= ~RTE_REMOTE;
        if (ch->ioapic.irr >> i & 1)
            deliver(ch, i);
    }
}

static uint32_t get(const struct soft_chips *ch)
{
    unsigned s = ch->ioapic.select;
    if (s == 0 || s == 2)
        return ch->ioapic.id << 24;
    if (s == 1)
        return 0x11 | (IOAPIC_PINS - 1) << 16;
    if (s < 0x10 || (s - 0x10) / 2 >= IOAPIC_PINS)
        return 0;
    uint64_t e = ch->ioapic.redirection[(s - 0x10) / 2];
    return s & 1 ? (uint32_t)(e >> 32) : (uint32_t)e;
}

static void set(struct soft_chips *ch, uint32_t v)
{
    unsigned s = ch->ioapic.select;
    if (s == 0)
        ch->ioapic.id = v >> 24 & 15;
    if (s < 0x10 || (s - 0x10) / 2 >= IOAPIC_PINS)
        return;
    unsigned pin = (s - 0x10) / 2;
    uint64_t *e = &ch->ioapic.redirection[pin];
    if (s & 1) {
        *e = (*e & 0xffffffffu) | (uint64_t)v << 32;
        return;
    }
    *e = (*e & (0xffffffff00000000ull | RTE_READ_ONLY)) | (v & 0x1ffffu & ~(uint32_t)RTE_READ_ONLY);
    if (!(*e & RTE_LEVEL))
        *e &= ~RTE_REMOTE;
    else if (ch->ioapic.irr >> pin & 1)
        deliver(ch, pin);
}

uint32_t ioapic_read(struct soft_chips *ch, unsigned offset)
{
    return offset == 0 ? ch->ioapic.select : offset == 0x10 ? get(ch) : 0;
}

void ioapic_write(struct soft_chips *ch, unsigned offset, uint32_t v)
{
    if (offset == 0)
        ch->ioapic.select = v & 0xff;
    else if (offset == 0x10)
        set(ch, v);
}
