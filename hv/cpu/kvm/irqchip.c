// SPDX-License-Identifier: Apache-2.0
/* PICs, I/O APIC and PIT of the in-kernel chips. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/base/checked.h"
#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/cpu/kvm/internal.h"
#include "hv/cpu/state.h"

static Ferry__PicChip *pic_out(const struct kvm_pic_state *p)
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
    o->special_fully_nested = p->special_fully_nested_mode;
    o->init4 = p->init4;
    o->elcr = p->elcr;
    o->elcr_mask = p->elcr_mask;
    return o;
}

static void pic_in(const Ferry__PicChip *o, struct kvm_pic_state *p)
{
    *p = (struct kvm_pic_state){
        .last_irr = (uint8_t)o->last_irr,
        .irr = (uint8_t)o->irr,
        .imr = (uint8_t)o->imr,
        .isr = (uint8_t)o->isr,
        .priority_add = (uint8_t)o->priority_add,
        .irq_base = (uint8_t)o->irq_base,
        .read_reg_select = o->read_reg_select,
        .poll = o->poll,
        .special_mask = o->special_mask,
        .init_state = (uint8_t)o->init_state,
        .auto_eoi = o->auto_eoi,
        .rotate_on_auto_eoi = o->rotate_on_auto_eoi,
        .special_fully_nested_mode = o->special_fully_nested,
        .init4 = o->init4,
        .elcr = (uint8_t)o->elcr,
        .elcr_mask = (uint8_t)o->elcr_mask,
    };
}

static int get_chip(struct fy_kvm *k, uint32_t id, struct kvm_irqchip *c, struct fy_err *e)
{
    memset(c, 0, sizeof *c);
    c->chip_id = id;
    return ioctl(k->vm_fd, KVM_GET_IRQCHIP, c) < 0
               ? fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_IRQCHIP %u", id)
               : 0;
}

static int save_irqchips(struct fy_kvm *k, Ferry__IrqChips *o, struct fy_err *e)
{
    struct kvm_irqchip c;
    if (get_chip(k, KVM_IRQCHIP_PIC_MASTER, &c, e) < 0)
        return -1;
    o->master = pic_out(&c.chip.pic);
    if (get_chip(k, KVM_IRQCHIP_PIC_SLAVE, &c, e) < 0)
        return -1;
    o->slave = pic_out(&c.chip.pic);
    if (get_chip(k, KVM_IRQCHIP_IOAPIC, &c, e) < 0)
        return -1;
    o->ioapic_base = c.chip.ioapic.base_address;
    o->ioapic_select = c.chip.ioapic.ioregsel;
    o->ioapic_id = c.chip.ioapic.id;
    o->ioapic_irr = c.chip.ioapic.irr;
    o->ioapic_redirection = calloc(KVM_IOAPIC_NUM_PINS, sizeof *o->ioapic_redirection);
    if (!o->master || !o->slave || !o->ioapic_redirection)
        return fy_fail(e, FY_ERESOURCE, "no memory for the interrupt chips' state");
    o->n_ioapic_redirection = KVM_IOAPIC_NUM_PINS;
    for (int i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        o->ioapic_redirection[i] = c.chip.ioapic.redirtbl[i].bits;
    return 0;
}

static int save_pit(struct fy_kvm *k, Ferry__Pit *o, struct fy_err *e)
{
    struct kvm_pit_state2 p;
    memset(&p, 0, sizeof p);
    if (ioctl(k->vm_fd, KVM_GET_PIT2, &p) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_PIT2");
    int64_t now = (int64_t)fy_now_ns();
    o->channels = calloc(3, sizeof *o->channels);
    for (int i = 0; o->channels && i < 3; i++) {
        Ferry__PitChannel *c = malloc(sizeof *c);
        if (!c)
            break;
        const struct kvm_pit_channel_state *s = &p.channels[i];
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
        /* KVM's load time is of CLOCK_MONOTONIC. */
        c->loaded_ago_ns =
            now > s->count_load_time ? FY_MIN((uint64_t)(now - s->count_load_time), FY_PIT_AGO_MAX) : 0;
        o->channels[o->n_channels++] = c;
    }
    if (o->n_channels != 3)
        return fy_fail(e, FY_ERESOURCE, "no memory for the PIT's state");
    o->speaker_dummy = p.flags & KVM_PIT_FLAGS_SPEAKER_DATA_ON;
    o->speaker_gate = p.channels[2].gate;
    return 0;
}

int fy_kvm_chips_save(struct fy_engine *en, Ferry__IrqChips **chips, Ferry__Pit **pit, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    Ferry__IrqChips *c = malloc(sizeof *c);
    Ferry__Pit *p = malloc(sizeof *p);
    if (!c || !p) {
        free(c);
        free(p);
        return fy_fail(e, FY_ERESOURCE, "no memory for the interrupt chips' state");
    }
    ferry__irq_chips__init(c);
    ferry__pit__init(p);
    if (save_irqchips(k, c, e) < 0 || save_pit(k, p, e) < 0) {
        ferry__irq_chips__free_unpacked(c, NULL);
        ferry__pit__free_unpacked(p, NULL);
        return -1;
    }
    *chips = c;
    *pit = p;
    return 0;
}

static int load_pit(struct fy_kvm *k, const Ferry__Pit *o, struct fy_err *e)
{
    struct kvm_pit_state2 p;
    memset(&p, 0, sizeof p);
    int64_t now = (int64_t)fy_now_ns();
    for (int i = 0; i < 3; i++) {
        const Ferry__PitChannel *c = o->channels[i];
        p.channels[i] = (struct kvm_pit_channel_state){
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
            .count_load_time = now - (int64_t)c->loaded_ago_ns,
        };
    }
    p.flags = o->speaker_dummy ? KVM_PIT_FLAGS_SPEAKER_DATA_ON : 0;
    return ioctl(k->vm_fd, KVM_SET_PIT2, &p) < 0 ? fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_PIT2") : 0;
}

int fy_kvm_chips_load(struct fy_engine *en, const Ferry__IrqChips *o, const Ferry__Pit *pit, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    struct kvm_irqchip c[3];
    memset(c, 0, sizeof c);
    for (uint32_t i = 0; i < 3; i++)
        c[i].chip_id = i;
    pic_in(o->master, &c[0].chip.pic);
    pic_in(o->slave, &c[1].chip.pic);
    struct kvm_ioapic_state *a = &c[2].chip.ioapic;
    a->base_address = o->ioapic_base;
    a->ioregsel = o->ioapic_select;
    a->id = o->ioapic_id;
    a->irr = o->ioapic_irr;
    for (int i = 0; i < KVM_IOAPIC_NUM_PINS; i++)
        a->redirtbl[i].bits = o->ioapic_redirection[i];
    for (uint32_t i = 0; i < 3; i++)
        if (ioctl(k->vm_fd, KVM_SET_IRQCHIP, &c[i]) < 0)
            return fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_IRQCHIP %u", i);
    return load_pit(k, pit, e);
}

int fy_kvm_chips_reset(struct fy_engine *en, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    return fy_kvm_chips_load(en, k->pristine_chips, k->pristine_pit, e);
}

void fy_kvm_irq(struct fy_engine *en, unsigned gsi, bool level)
{
    struct kvm_irq_level l = {.irq = gsi, .level = level};
    if (ioctl(FY_KVM(en)->vm_fd, KVM_IRQ_LINE, &l) < 0)
        fy_warn("KVM refuses interrupt line %u", gsi);
}

void fy_kvm_msi(struct fy_engine *en, uint64_t address, uint32_t data)
{
    struct kvm_msi m = {
        .address_lo = (uint32_t)address, .address_hi = (uint32_t)(address >> 32), .data = data};
    /* 0 or an error: no CPU takes it, which is the guest's own doing. */
    ioctl(FY_KVM(en)->vm_fd, KVM_SIGNAL_MSI, &m);
}

bool fy_kvm_doorbell(struct fy_engine *en, uint64_t gpa, int eventfd, bool on)
{
    struct fy_kvm *k = FY_KVM(en);
    /* Without a length: any write; else those of 16 bits, which is what drivers do. */
    struct kvm_ioeventfd f = {.addr = gpa,
                              .len = fy_kvm_cap(k->vm_fd, KVM_CAP_IOEVENTFD_ANY_LENGTH) ? 0 : 2,
                              .fd = eventfd,
                              .flags = on ? 0 : KVM_IOEVENTFD_FLAG_DEASSIGN};
    return ioctl(k->vm_fd, KVM_IOEVENTFD, &f) == 0;
}
