// SPDX-License-Identifier: Apache-2.0
/* The chips' state as messages: what KVM's chips are saved as, so that either engine loads what the other
 * saved. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/cpu/soft/chips/internal.h"
#include "hv/cpu/soft/state.h"
#include "hv/cpu/state.h"
#include "proto/wire.h"

static void lock(struct soft_chips *ch)
{
    pthread_mutex_lock(&ch->lock);
}

static void unlock(struct soft_chips *ch)
{
    pthread_mutex_unlock(&ch->lock);
}

void soft_lapic_power_on(struct soft_cpu *c)
{
    lock(c->vm->chips);
    c->apic_base = 0xfee00000u | APIC_GLOBAL | (c->index == 0 ? APIC_BSP : 0);
    lapic_reset(c->lapic, c->index == 0);
    unlock(c->vm->chips);
}

void soft_lapic_save(struct soft_cpu *c, uint8_t page[1024])
{
    struct soft_lapic *l = c->lapic;
    lock(c->vm->chips);
    memset(page, 0, 1024);
    /* What is due now goes along as an interrupt: the timer's thread may not have come to it. */
    uint64_t now = soft_clock_ns(c->vm);
    lapic_timer_fire(l, now);
    l->r[L_TMCCT] = lapic_current_count(l, now);
    for (unsigned i = 0; i < 64; i++)
        fy_put32(page + 16 * i, l->r[i]);
    unlock(c->vm->chips);
}

void soft_lapic_load(struct soft_cpu *c, const uint8_t page[1024])
{
    struct soft_lapic *l = c->lapic;
    lock(c->vm->chips);
    for (unsigned i = 0; i < 64; i++)
        l->r[i] = fy_get32(page + 16 * i);
    l->r[L_VERSION] = 0x50014;
    if ((l->r[L_TIMER] >> 17 & 3) == 2) {
        lapic_deadline_arm(l);
    } else {
        /* At its end a periodic timer starts a new period, and a one-shot one fires: KVM may have counted it
         * down and not yet made an interrupt of it. Once too often is harmless, never is a guest that sleeps
         * for good; KVM's own load does the same. */
        uint32_t left = l->r[L_TMCCT];
        if (!left && l->r[L_TMICT])
            left = (l->r[L_TIMER] >> 17 & 3) == 1 ? l->r[L_TMICT] : 1;
        lapic_rearm(l, left);
    }
    lapic_update(l);
    unlock(c->vm->chips);
}

static Ferry__PicChip *pic_out(const struct pic *p)
{
    Ferry__PicChip *o = malloc(sizeof *o);
    if (!o)
        return NULL;
    ferry__pic_chip__init(o);
    o->last_irr = p->last_irr;
    o->irr = p->irr;
    o->imr = p->imr;
    o->isr = p->isr;
    o->priority_add = p->priority_add;
    o->irq_base = p->irq_base;
    o->read_reg_select = p->read_reg_select;
    o->poll = p->poll;
    o->special_mask = p->special_mask;
    o->init_state = p->init_state;
    o->auto_eoi = p->auto_eoi;
    o->rotate_on_auto_eoi = p->rotate_on_auto_eoi;
    o->special_fully_nested = p->special_fully_nested;
    o->init4 = p->init4;
    o->elcr = p->elcr;
    o->elcr_mask = p->elcr_mask;
    return o;
}

static struct pic pic_in(const Ferry__PicChip *o)
{
    return (struct pic){
        .last_irr = (uint8_t)o->last_irr,
        .irr = (uint8_t)o->irr,
        .imr = (uint8_t)o->imr,
        .isr = (uint8_t)o->isr,
        .priority_add = (uint8_t)(o->priority_add & 7),
        .irq_base = (uint8_t)o->irq_base,
        .read_reg_select = o->read_reg_select,
        .poll = o->poll,
        .special_mask = o->special_mask,
        .init_state = (uint8_t)o->init_state,
        .auto_eoi = o->auto_eoi,
        .rotate_on_auto_eoi = o->rotate_on_auto_eoi,
        .special_fully_nested = o->special_fully_nested,
        .init4 = o->init4,
        .elcr = (uint8_t)o->elcr,
        .elcr_mask = (uint8_t)o->elcr_mask,
    };
}

static bool pit_out(const struct soft_chips *ch, Ferry__Pit *o)
{
    uint64_t now = soft_clock_ns(ch->vm);
    o->channels = calloc(3, sizeof *o->channels);
    for (int i = 0; o->channels && i < 3; i++) {
        const struct pit_channel *s = &ch->pit[i];
        Ferry__PitChannel *c = malloc(sizeof *c);
        if (!c)
            return false;
        ferry__pit_channel__init(c);
        c->count = s->count;
        c->latched_count = s->latched_count;
        c->count_latched = s->count_latched;
        c->status_latched = s->status_latched;
        c->status = s->status;
        c->read_state = s->read_state;
        c->write_state = s->write_state;
        c->write_latch = s->write_latch;
        c->rw_mode = s->rw_mode;
        c->mode = s->mode;
        c->bcd = s->bcd;
        c->gate = s->gate;
        c->null_count = s->null_count;
        c->loaded_ago_ns = FY_MIN(now - s->loaded, FY_PIT_AGO_MAX);
        o->channels[o->n_channels++] = c;
    }
    o->speaker_dummy = ch->speaker_on;
    o->speaker_gate = ch->pit[2].gate;
    return o->channels;
}

int soft_chips_save(struct fy_engine *en, Ferry__IrqChips **chips, Ferry__Pit **pit, struct fy_err *e)
{
    struct soft_chips *ch = SOFT_VM(en)->chips;
    Ferry__IrqChips *c = malloc(sizeof *c);
    Ferry__Pit *p = malloc(sizeof *p);
    if (!c || !p) {
        free(c);
        free(p);
        return fy_fail(e, FY_ERESOURCE, "no memory for the interrupt chips' state");
    }
    ferry__irq_chips__init(c);
    ferry__pit__init(p);
    lock(ch);
    c->master = pic_out(&ch->pic[0]);
    c->slave = pic_out(&ch->pic[1]);
    c->ioapic_base = 0xfec00000u;
    c->ioapic_select = ch->ioapic.select;
    c->ioapic_id = ch->ioapic.id;
    c->ioapic_irr = ch->ioapic.irr;
    c->ioapic_redirection = malloc(sizeof ch->ioapic.redirection);
    if (c->ioapic_redirection) {
        memcpy(c->ioapic_redirection, ch->ioapic.redirection, sizeof ch->ioapic.redirection);
        c->n_ioapic_redirection = IOAPIC_PINS;
    }
    bool ok = pit_out(ch, p) && c->master && c->slave && c->ioapic_redirection;
    unlock(ch);
    if (!ok) {
        ferry__irq_chips__free_unpacked(c, NULL);
        ferry__pit__free_unpacked(p, NULL);
        return fy_fail(e, FY_ERESOURCE, "no memory for the interrupt chips' state");
    }
    *chips = c;
    *pit = p;
    return 0;
}

int soft_chips_load(struct fy_engine *en, const Ferry__IrqChips *o, const Ferry__Pit *pit, struct fy_err *e)
{
    (void)e;
    struct soft_chips *ch = SOFT_VM(en)->chips;
    uint64_t now = soft_clock_ns(ch->vm);
    lock(ch);
    ch->pic[0] = pic_in(o->master);
    ch->pic[1] = pic_in(o->slave);
    ch->ioapic.select = o->ioapic_select;
    ch->ioapic.id = o->ioapic_id;
    ch->ioapic.irr = o->ioapic_irr;
    memcpy(ch->ioapic.redirection, o->ioapic_redirection, sizeof ch->ioapic.redirection);
    for (int i = 0; i < 3; i++) {
        const Ferry__PitChannel *c = pit->channels[i];
        ch->pit[i] = (struct pit_channel){
            .count = c->count,
            .latched_count = (uint16_t)c->latched_count,
            .count_latched = (uint8_t)c->count_latched,
            .status_latched = c->status_latched,
            .status = (uint8_t)c->status,
            .read_state = (uint8_t)c->read_state,
            .write_state = (uint8_t)c->write_state,
            .write_latch = (uint8_t)c->write_latch,
            .rw_mode = (uint8_t)c->rw_mode,
            .mode = (uint8_t)c->mode,
            .bcd = c->bcd,
            .gate = c->gate,
            .null_count = c->null_count,
            /* May lie before this machine's beginning: differences are all that counts. */
            .loaded = now - c->loaded_ago_ns,
        };
    }
    ch->speaker_on = pit->speaker_dummy;
    pit_rearm(ch);
    pics_update(ch);
    for (unsigned i = 0; i < ch->vm->vcpus; i++)
        lapic_update(&ch->lapics[i]);
    if (ch->vm->icount) {
        ch->lapics[0].due = ch->lapic_due;
        ch->pit_due = ch->pit_due_saved;
    }
    pthread_cond_signal(&ch->wake);
    unlock(ch);
    return 0;
}

int soft_clock_save(struct fy_engine *en, Ferry__Clock *clock, uint64_t *tsc, struct fy_err *e)
{
    (void)e;
    struct soft_vm *vm = SOFT_VM(en);
    uint64_t now = soft_clock_ns(vm);
    clock->realtime_ns = vm->icount ? soft_icount_epoch_ns(vm) + now : fy_realtime_ns();
    clock->guest_ns = now + vm->chips->guest_offset;
    for (unsigned i = 0; i < vm->vcpus; i++)
        tsc[i] = soft_ticks(vm, now) + vm->chips->tsc_offset[i];
    clock->tsc = tsc[0];
    return 0;
}

int soft_clock_load(struct fy_engine *en, const Ferry__Clock *clock, const uint64_t *tsc,
                    uint64_t *elapsed_ns, char *warning, struct fy_err *e)
{
    struct soft_vm *vm = SOFT_VM(en);
    struct soft_chips *ch = vm->chips;
    warning[0] = 0;
    uint64_t real = fy_realtime_ns();
    /* The hosts' real-time clocks may differ: a target that is behind makes no time pass. With icount none
     * passes at all. */
    uint64_t elapsed = real > clock->realtime_ns && !vm->icount ? real - clock->realtime_ns : 0;
    if (clock->guest_ns > UINT64_MAX / 4 || elapsed > UINT64_MAX / 4)
        return fy_fail(e, FY_ECORRUPT, "clock state: out of range");
    lock(ch);
    uint64_t now = soft_clock_ns(vm);
    ch->guest_offset = clock->guest_ns + elapsed - now;
    for (unsigned i = 0; i < vm->vcpus; i++)
        ch->tsc_offset[i] = tsc[i] + soft_ticks(vm, elapsed) - soft_ticks(vm, now);
    unlock(ch);
    *elapsed_ns = elapsed;
    return 0;
}
