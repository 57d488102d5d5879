// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/state.h"

#include <string.h>

#include "hv/cpu/model.h"
#include "proto/wire.h"

#define PIT_NO_MODE 255 /* never programmed */

static int bad(struct fy_err *e, const char *what, const char *field)
{
    return fy_fail(e, FY_ECORRUPT, "%s state: %s is out of range", what, field);
}

#define CHECK(what, cond, field)                                                                             \
    do {                                                                                                     \
        if (!(cond))                                                                                         \
            return bad(e, what, field);                                                                      \
    } while (0)

static int check_segments(const Ferry__Vcpu *v, struct fy_err *e)
{
    for (size_t i = 0; i < v->n_segments; i++) {
        const Ferry__Segment *s = v->segments[i];
        CHECK("vcpu", s->selector <= 0xffff, "segment selector");
        CHECK("vcpu", s->type <= 15, "segment type");
        CHECK("vcpu", s->dpl <= 3, "segment dpl");
    }
    return 0;
}

/* XSAVE area, standard format (Intel SDM volume 1, 13.4): MXCSR at 24, XSTATE_BV at 512, XCOMP_BV at 520. */
static int check_xsave(const Ferry__Vcpu *v, uint64_t xcr0, struct fy_err *e)
{
    CHECK("vcpu", v->xsave.len >= FY_XSAVE_MIN && v->xsave.len <= FY_XSAVE_MAX, "xsave length");
    CHECK("vcpu", !(fy_get64(v->xsave.data + 512) & ~(xcr0 | 3)), "xsave components");
    CHECK("vcpu", fy_get64(v->xsave.data + 520) == 0, "xsave format");
    CHECK("vcpu", fy_get32(v->xsave.data + 24) <= 0xffff, "mxcsr");
    CHECK("vcpu", v->xcr[0] & 1 && !(v->xcr[0] & ~(xcr0 | 1)), "xcr0");
    return 0;
}

static int check_msrs(const Ferry__Vcpu *v, const Ferry__CpuPolicy *policy, struct fy_err *e)
{
    CHECK("vcpu", v->n_msrs == policy->n_msrs, "number of MSRs");
    for (size_t i = 0; i < v->n_msrs; i++)
        if (v->msrs[i]->index != policy->msrs[i])
            return fy_fail(e, FY_ECORRUPT, "vcpu state: MSR 0x%x stands where 0x%x must", v->msrs[i]->index,
                           policy->msrs[i]);
    return 0;
}

int fy_vcpu_validate(const Ferry__Vcpu *v, unsigned index, const Ferry__CpuPolicy *policy, struct fy_err *e)
{
    CHECK("vcpu", v->index == index, "index");
    CHECK("vcpu", v->n_gpr == 16, "number of registers");
    CHECK("vcpu", v->n_segments == 8, "number of segments");
    CHECK("vcpu", v->gdt_limit <= 0xffff && v->idt_limit <= 0xffff, "table limit");
    CHECK("vcpu", v->cr8 <= 15, "cr8");
    CHECK("vcpu", v->n_pdptr == 0 || v->n_pdptr == 4, "number of PDPTRs");
    CHECK("vcpu", v->n_xcr == 1, "number of XCRs");
    CHECK("vcpu", v->n_dr == 6, "number of debug registers");
    CHECK("vcpu", v->lapic.len == FY_LAPIC_LEN, "lapic length");
    CHECK("vcpu", v->exception_vector <= 31, "exception vector");
    CHECK("vcpu", !(v->exception_pending && v->exception_injected), "exception");
    CHECK("vcpu", v->interrupt_vector <= 255, "interrupt vector");
    CHECK("vcpu", v->interrupt_shadow <= 3, "interrupt shadow");
    CHECK("vcpu", v->sipi_vector <= 255, "SIPI vector");
    CHECK("vcpu", v->run_state <= 4, "run state");
    if (v->smm || v->smm_pending || v->smm_inside_nmi)
        return fy_fail(e, FY_EUNSUPPORTED, "vcpu state: system management mode is not offered");
    if (check_segments(v, e) < 0 || check_xsave(v, fy_cpu_xcr0(policy), e) < 0)
        return -1;
    return check_msrs(v, policy, e);
}

static int check_pic(const Ferry__PicChip *p, struct fy_err *e)
{
    CHECK("irqchip", p, "a PIC");
    CHECK("irqchip",
          p->last_irr <= 255 && p->irr <= 255 && p->imr <= 255 && p->isr <= 255 && p->priority_add <= 7 &&
              p->irq_base <= 255 && p->init_state <= 3 && p->elcr <= 255 && p->elcr_mask <= 255,
          "a PIC register");
    return 0;
}

int fy_irqchips_validate(const Ferry__IrqChips *c, struct fy_err *e)
{
    if (check_pic(c->master, e) < 0 || check_pic(c->slave, e) < 0)
        return -1;
    CHECK("irqchip", c->n_ioapic_redirection == 24, "number of I/O APIC pins");
    CHECK("irqchip", c->ioapic_base == 0xfec00000u, "I/O APIC address");
    CHECK("irqchip", c->ioapic_select <= 255, "I/O APIC register");
    CHECK("irqchip", c->ioapic_id <= 15, "I/O APIC id");
    return 0;
}

int fy_pit_validate(const Ferry__Pit *p, struct fy_err *e)
{
    CHECK("pit", p->n_channels == 3, "number of channels");
    for (int i = 0; i < 3; i++) {
        const Ferry__PitChannel *c = p->channels[i];
        CHECK("pit", c->count >= 1 && c->count <= 65536, "count");
        CHECK("pit", c->latched_count <= 0xffff && c->count_latched <= 4 && c->status <= 255, "latch");
        CHECK("pit", c->read_state <= 4 && c->write_state <= 4 && c->write_latch <= 255, "access state");
        CHECK("pit", c->rw_mode <= 3 && (c->mode <= 7 || c->mode == PIT_NO_MODE), "mode");
        CHECK("pit", c->loaded_ago_ns <= FY_PIT_AGO_MAX, "load time");
    }
    return 0;
}
