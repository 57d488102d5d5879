// SPDX-License-Identifier: Apache-2.0
/* Two 8259A interrupt controllers in cascade (Intel 8259A datasheet, order 231468). */
#include "hv/cpu/soft/chips/internal.h"

/* Priority of the highest bit set in mask, 0 (highest) to 7, or 8. */
static unsigned priority(const struct pic *p, uint8_t mask)
{
    for (unsigned i = 0; i < 8; i++)
        if (mask >> ((i + p->priority_add) & 7) & 1)
            return i;
    return 8;
}

/* The request that the chip would hand out, or -1. */
static int pending(const struct soft_chips *ch, unsigned chip)
{
    const struct pic *p = &ch->pic[chip];
    unsigned want = priority(p, p->irr & (uint8_t)~p->imr);
    if (want == 8)
        return -1;
    uint8_t in_service = p->isr;
    if (p->special_mask)
        in_service &= (uint8_t)~p->imr;
    if (p->special_fully_nested && chip == 0)
        in_service &= (uint8_t) ~(1u << 2);
    return want < priority(p, in_service) ? (int)((want + p->priority_add) & 7) : -1;
}

static void set_line(struct pic *p, unsigned line, bool level)
{
    uint8_t bit = (uint8_t)(1u << line);
    if (p->elcr & bit) {
        p->irr = level ? p->irr | bit : p->irr & (uint8_t)~bit;
        p->last_irr = level ? p->last_irr | bit : p->last_irr & (uint8_t)~bit;
    } else if (level) {
        if (!(p->last_irr & bit))
            p->irr |= bit;
        p->last_irr |= bit;
    } else {
        p->last_irr &= (uint8_t)~bit;
    }
}

void pics_update(struct soft_chips *ch)
{
    /* The slave's output is the master's line 2: let it fall first, so that the next request is an edge. */
    set_line(&ch->pic[0], 2, false);
    set_line(&ch->pic[0], 2, pending(ch, 1) >= 0);
    bool out = pending(ch, 0) >= 0;
    if (out == ch->pic_out)
        return;
    ch->pic_out = out;
    for (unsigned i = 0; i < ch->vm->vcpus; i++)
        lapic_update(&ch->lapics[i]);
}

void pics_set(struct soft_chips *ch, unsigned irq, bool level)
{
    if (irq == 2)
        return;
    set_line(&ch->pic[irq >> 3], irq & 7, level);
    pics_update(ch);
}

static void acknowledge(struct pic *p, unsigned line)
{
    uint8_t bit = (uint8_t)(1u << line);
    if (p->auto_eoi) {
        if (p->rotate_on_auto_eoi)
            p->priority_add = (line + 1) & 7;
    } else {
        p->isr |= bit;
    }
    if (!(p->elcr & bit))
        p->irr &= (uint8_t)~bit;
}

int pics_ack(struct soft_chips *ch)
{
    struct pic *m = &ch->pic[0], *s = &ch->pic[1];
    int line = pending(ch, 0);
    int vector = m->irq_base + 7; /* spurious */
    if (line == 2) {
        int second = pending(ch, 1);
        if (second >= 0)
            acknowledge(s, (unsigned)second);
        vector = s->irq_base + (second >= 0 ? second : 7);
    } else if (line >= 0) {
        vector = m->irq_base + line;
    }
    if (line >= 0)
        acknowledge(m, (unsigned)line);
    pics_update(ch);
    return vector & 0xff;
}

void pics_reset(struct soft_chips *ch)
{
    ch->pic[0] = (struct pic){.elcr_mask = 0xf8};
    ch->pic[1] = (struct pic){.elcr_mask = 0xde};
    pics_update(ch);
}

static void icw1(struct pic *p, uint8_t v)
{
    uint8_t elcr = p->elcr, mask = p->elcr_mask, level = p->last_irr & p->elcr;
    *p = (struct pic){.elcr = elcr, .elcr_mask = mask, .irr = level, .last_irr = level};
    p->init_state = 1;
    p->init4 = v & 1;
}

static void ocw2(struct pic *p, uint8_t v)
{
    unsigned line = v & 7;
    unsigned top = priority(p, p->isr);
    unsigned found = (top + p->priority_add) & 7;
    switch (v >> 5) {
    case 0: /* rotate in automatic EOI */
    case 4:
        p->rotate_on_auto_eoi = v >> 7;
        break;
    case 1: /* EOI */
    case 5:
        if (top == 8)
            break;
        p->isr &= (uint8_t) ~(1u << found);
        if (v >> 7)
            p->priority_add = (found + 1) & 7;
        break;
    case 3: /* specific EOI */
    case 7:
        p->isr &= (uint8_t) ~(1u << line);
        if (v >> 7)
            p->priority_add = (line + 1) & 7;
        break;
    case 6:
        p->priority_add = (line + 1) & 7;
        break;
    default:
        break;
    }
}

static void command(struct pic *p, uint8_t v)
{
    if (v & 0x10) {
        icw1(p, v);
    } else if (v & 0x08) {
        if (v & 0x04)
            p->poll = true;
        if (v & 0x02)
            p->read_reg_select = v & 1;
        if (v & 0x40)
            p->special_mask = v >> 5 & 1;
    } else {
        ocw2(p, v);
    }
}

static void data(struct pic *p, uint8_t v)
{
    switch (p->init_state) {
    case 1:
        p->irq_base = v & 0xf8;
        p->init_state = 2;
        break;
    case 2:
        p->init_state = p->init4 ? 3 : 0;
        break;
    case 3:
        p->special_fully_nested = v >> 4 & 1;
        p->auto_eoi = v >> 1 & 1;
        p->init_state = 0;
        break;
    default:
        p->imr = v;
    }
}

void pics_write(struct soft_chips *ch, uint16_t port, uint8_t v)
{
    struct pic *p = &ch->pic[port >= 0xa0 && port < 0x4d0];
    if (port == 0x4d0 || port == 0x4d1) {
        p = &ch->pic[port & 1];
        p->elcr = v & p->elcr_mask;
    } else if (port & 1) {
        data(p, v);
    } else {
        command(p, v);
    }
    pics_update(ch);
}

uint8_t pics_read(struct soft_chips *ch, uint16_t port)
{
    if (port == 0x4d0 || port == 0x4d1)
        return ch->pic[port & 1].elcr;
    unsigned chip = port >= 0xa0;
    struct pic *p = &ch->pic[chip];
    if (p->poll) {
        p->poll = false;
        int line = pending(ch, chip);
        if (line < 0)
            return 0;
        acknowledge(p, (unsigned)line);
        pics_update(ch);
        return (uint8_t)(0x80 | line);
    }
    if (port & 1)
        return p->imr;
    return p->read_reg_select ? p->isr : p->irr;
}
