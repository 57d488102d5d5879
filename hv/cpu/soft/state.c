// SPDX-License-Identifier: Apache-2.0
/* A vCPU's state as a message and back: docs/spec/state.md. */
#include "hv/cpu/soft/state.h"

#include <stdlib.h>
#include <string.h>

#include "hv/cpu/model.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"
#include "hv/cpu/state.h"
#include "proto/wire.h"

#define AVX 4u
#define AVX_AT 576
#define AVX_END 832
#define MXCSR_MASK 0xffffu

enum { RUNNABLE, WAITS_INIT, WAITS_SIPI, HALTED, SIPI_CAME };

/* --- XSAVE area, standard format (Intel SDM volume 1, 13.4) --- */

static void xsave_out(const struct soft_cpu *c, uint64_t xcr0, uint8_t *p)
{
    const struct soft_fpu *f = &c->fpu;
    unsigned top = f->fsw >> 11 & 7;
    fy_put16(p, f->fcw);
    fy_put16(p + 2, f->fsw);
    p[4] = f->ftw;
    fy_put16(p + 6, f->fop);
    fy_put64(p + 8, f->fip);
    fy_put64(p + 16, f->fdp);
    fy_put32(p + 24, c->mxcsr);
    fy_put32(p + 28, MXCSR_MASK);
    for (unsigned i = 0; i < 8; i++)
        memcpy(p + 32 + 16 * i, f->st[(top + i) & 7], 10);
    for (unsigned i = 0; i < 16; i++)
        memcpy(p + 160 + 16 * i, c->ymm[i].u8, 16);
    fy_put64(p + 512, 3 | (xcr0 & AVX));
    for (unsigned i = 0; xcr0 & AVX && i < 16; i++)
        memcpy(p + AVX_AT + 16 * i, c->ymm[i].u8 + 16, 16);
}

static void xsave_in(struct soft_cpu *c, const uint8_t *p, size_t len)
{
    struct soft_fpu *f = &c->fpu;
    uint64_t bv = fy_get64(p + 512);
    *f = (struct soft_fpu){.fcw = 0x37f};
    memset(c->ymm, 0, sizeof c->ymm);
    c->mxcsr = fy_get32(p + 24) & MXCSR_MASK;
    if (bv & 1) {
        f->fcw = fy_get16(p);
        f->fsw = fy_get16(p + 2);
        f->ftw = p[4];
        f->fop = fy_get16(p + 6) & 0x7ff;
        f->fip = fy_get64(p + 8);
        f->fdp = fy_get64(p + 16);
        unsigned top = f->fsw >> 11 & 7;
        for (unsigned i = 0; i < 8; i++)
            memcpy(f->st[(top + i) & 7], p + 32 + 16 * i, 10);
    }
    for (unsigned i = 0; i < 16; i++) {
        if (bv & 2)
            memcpy(c->ymm[i].u8, p + 160 + 16 * i, 16);
        if (bv & AVX && len >= AVX_END)
            memcpy(c->ymm[i].u8 + 16, p + AVX_AT + 16 * i, 16);
    }
}

/* --- segments --- */

static Ferry__Segment *segment_out(const struct soft_segment *s)
{
    Ferry__Segment *o = malloc(sizeof *o);
    if (!o)
        return NULL;
    ferry__segment__init(o);
    o->base_address = s->base;
    o->limit = s->limit;
    o->selector = s->sel;
    o->type = s->type;
    o->present = s->present;
    o->dpl = s->dpl;
    o->db = s->db;
    o->s = s->s;
    o->l = s->l;
    o->g = s->g;
    o->avl = s->avl;
    o->unusable = s->unusable;
    return o;
}

static struct soft_segment segment_in(const Ferry__Segment *o)
{
    return (struct soft_segment){
        .base = o->base_address,
        .limit = o->limit,
        .sel = (uint16_t)o->selector,
        .type = o->type & 15,
        .dpl = o->dpl & 3,
        .present = o->present,
        .s = o->s,
        .db = o->db,
        .l = o->l,
        .g = o->g,
        .avl = o->avl,
        .unusable = o->unusable,
    };
}

/* --- events --- */

static void events_out(const struct soft_cpu *c, Ferry__Vcpu *v)
{
    uint32_t requests = __atomic_load_n(&c->requests, __ATOMIC_SEQ_CST);
    if (c->injected && c->injected_kind == 0) {
        v->exception_injected = true;
        v->exception_vector = c->injected_vector & 31;
        v->exception_has_error = c->injected_has_error;
        v->exception_error = c->injected_error;
    } else if (c->injected && c->injected_kind == 3) {
        v->nmi_injected = true;
    } else if (c->injected) {
        v->interrupt_injected = true;
        v->interrupt_vector = c->injected_vector;
        v->interrupt_soft = c->injected_kind == 2;
    }
    v->interrupt_shadow = c->shadow & 3;
    v->nmi_pending = c->nmi_pending || requests & SOFT_REQ_NMI;
    v->nmi_masked = c->nmi_masked;
    v->sipi_vector = c->sipi_vector;
    v->latched_init = requests & SOFT_REQ_INIT;
    v->triple_fault_pending = c->triple_fault;
    v->run_state = requests & SOFT_REQ_SIPI && c->run_state == WAITS_SIPI ? SIPI_CAME : c->run_state;
}

static void events_in(struct soft_cpu *c, const Ferry__Vcpu *v)
{
    c->exc = (struct soft_exception){0};
    c->injected = v->exception_injected || v->interrupt_injected || v->nmi_injected;
    c->injected_kind = v->exception_injected ? 0 : v->nmi_injected ? 3 : v->interrupt_soft ? 2 : 1;
    c->injected_vector = (uint8_t)(v->exception_injected ? v->exception_vector : v->interrupt_vector);
    c->injected_has_error = v->exception_has_error;
    c->injected_error = v->exception_error;
    if (v->exception_pending) {
        c->exc.pending = true;
        c->exc.vector = (uint8_t)v->exception_vector;
        c->exc.has_error = v->exception_has_error;
        c->exc.error = v->exception_error;
        c->exc.cr2 =
            v->exception_has_payload && v->exception_vector == SOFT_PFX ? v->exception_payload : v->cr2;
        c->exc.dr6 = v->exception_has_payload && v->exception_vector == SOFT_DB ? v->exception_payload : 0;
    }
    c->shadow = v->interrupt_shadow & 2 ? 2 : v->interrupt_shadow & 1;
    c->nmi_pending = v->nmi_pending;
    c->nmi_masked = v->nmi_masked;
    c->sipi_vector = (uint8_t)v->sipi_vector;
    c->triple_fault = v->triple_fault_pending;
    c->run_state = (uint8_t)(v->run_state == SIPI_CAME ? WAITS_SIPI : v->run_state);
    uint32_t requests =
        (v->latched_init ? SOFT_REQ_INIT : 0) | (v->run_state == SIPI_CAME ? SOFT_REQ_SIPI : 0);
    __atomic_and_fetch(&c->requests, SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
    if (requests)
        soft_request(c, requests);
}

/* --- MSRs: those that this CPU has not keep their value, so that they come back to where the guest began ---
 */

static bool msrs_out(struct soft_cpu *c, Ferry__Vcpu *v)
{
    const Ferry__CpuPolicy *p = c->vm->policy;
    v->msrs = calloc(p->n_msrs ? p->n_msrs : 1, sizeof *v->msrs);
    for (size_t i = 0; v->msrs && i < p->n_msrs; i++) {
        Ferry__Msr *m = malloc(sizeof *m);
        if (!m)
            return false;
        ferry__msr__init(m);
        m->index = p->msrs[i];
        uint64_t value;
        if (soft_msr_read(c, m->index, &value, true))
            m->value = value;
        else
            m->value = c->foreign_msrs ? c->foreign_msrs[i] : 0;
        c->exc = (struct soft_exception){0};
        v->msrs[v->n_msrs++] = m;
    }
    return v->msrs;
}

static int msrs_in(struct soft_cpu *c, const Ferry__Vcpu *v, struct fy_err *e)
{
    if (!c->foreign_msrs)
        c->foreign_msrs = calloc(v->n_msrs ? v->n_msrs : 1, 8);
    if (!c->foreign_msrs)
        return fy_fail(e, FY_ERESOURCE, "no memory for MSRs");
    for (size_t i = 0; i < v->n_msrs; i++) {
        uint64_t value;
        bool known = soft_msr_read(c, v->msrs[i]->index, &value, true);
        c->foreign_msrs[i] = v->msrs[i]->value;
        bool ok = !known || soft_msr_write(c, v->msrs[i]->index, v->msrs[i]->value, true);
        c->exc = (struct soft_exception){0};
        if (!ok)
            return fy_fail(e, FY_ECORRUPT, "vcpu state: MSR 0x%x cannot hold 0x%llx", v->msrs[i]->index,
                           (unsigned long long)v->msrs[i]->value);
    }
    return 0;
}

/* --- whole --- */

static bool pae_tables(const struct soft_cpu *c)
{
    return c->cr0 & SOFT_CR0_PG && c->cr4 & SOFT_CR4_PAE && !(c->efer & SOFT_EFER_LMA);
}

static bool words_out(const uint64_t *from, size_t n, uint64_t **to, size_t *count)
{
    *to = malloc(n * 8);
    if (!*to)
        return false;
    memcpy(*to, from, n * 8);
    *count = n;
    return true;
}

static bool bytes_out(ProtobufCBinaryData *b, size_t len)
{
    b->data = calloc(1, len);
    b->len = b->data ? len : 0;
    return b->data;
}

static void control_out(struct soft_cpu *c, Ferry__Vcpu *v)
{
    v->rip = c->rip;
    v->rflags = soft_rflags(c);
    v->gdt_base = c->gdt.base;
    v->gdt_limit = c->gdt.limit;
    v->idt_base = c->idt.base;
    v->idt_limit = c->idt.limit;
    v->cr0 = c->cr0;
    v->cr2 = c->cr2;
    v->cr3 = c->cr3;
    v->cr4 = c->cr4;
    v->cr8 = soft_lapic_tpr(c);
    v->efer = c->efer;
    v->apic_base = c->apic_base;
    v->tsc_adjust = c->tsc_adjust;
}

Ferry__Vcpu *soft_vcpu_save(struct fy_engine *en, unsigned vcpu, struct fy_err *e)
{
    struct soft_cpu *c = SOFT_VM(en)->cpus[vcpu];
    uint64_t xcr0 = fy_cpu_xcr0(c->vm->policy);
    const uint64_t dr[6] = {c->dr[0], c->dr[1], c->dr[2], c->dr[3], c->dr[6], c->dr[7]};
    Ferry__Vcpu *v = malloc(sizeof *v);
    if (!v)
        goto none;
    ferry__vcpu__init(v);
    v->index = vcpu;
    control_out(c, v);
    events_out(c, v);
    v->segments = calloc(SOFT_SREGS, sizeof *v->segments);
    for (unsigned i = 0; v->segments && i < SOFT_SREGS; i++) {
        v->segments[i] = segment_out(&c->seg[i]);
        if (!v->segments[i])
            goto none;
        v->n_segments++;
    }
    if (!v->segments || !words_out(c->gpr, 16, &v->gpr, &v->n_gpr) || !words_out(dr, 6, &v->dr, &v->n_dr) ||
        !words_out(&c->xcr0, 1, &v->xcr, &v->n_xcr) ||
        (pae_tables(c) && !words_out(c->pdptr, 4, &v->pdptr, &v->n_pdptr)) ||
        !bytes_out(&v->xsave, xcr0 & AVX ? AVX_END : FY_XSAVE_MIN) || !bytes_out(&v->lapic, FY_LAPIC_LEN) ||
        !msrs_out(c, v))
        goto none;
    xsave_out(c, xcr0, v->xsave.data);
    soft_lapic_save(c, v->lapic.data);
    return v;
none:
    if (v)
        ferry__vcpu__free_unpacked(v, NULL);
    fy_fail(e, FY_ERESOURCE, "no memory for the state of vCPU %u", vcpu);
    return NULL;
}

static void control_in(struct soft_cpu *c, const Ferry__Vcpu *v)
{
    c->rip = v->rip;
    soft_set_rflags(c, v->rflags);
    c->gdt = (struct soft_table){v->gdt_base, (uint16_t)v->gdt_limit};
    c->idt = (struct soft_table){v->idt_base, (uint16_t)v->idt_limit};
    c->cr0 = v->cr0;
    c->cr2 = v->cr2;
    c->cr3 = v->cr3;
    c->cr4 = v->cr4;
    c->efer = v->efer;
    c->apic_base = v->apic_base;
    c->tsc_adjust = v->tsc_adjust;
    c->xcr0 = v->xcr[0];
    for (unsigned i = 0; i < 4; i++) {
        c->dr[i] = v->dr[i];
        c->pdptr[i] = v->n_pdptr ? v->pdptr[i] : 0;
    }
    c->dr[6] = v->dr[4];
    c->dr[7] = v->dr[5];
}

int soft_vcpu_load(struct fy_engine *en, unsigned vcpu, const Ferry__Vcpu *v, struct fy_err *e)
{
    struct soft_cpu *c = SOFT_VM(en)->cpus[vcpu];
    soft_cpu_power_on(c);
    memcpy(c->gpr, v->gpr, 16 * 8);
    c->gpr[SOFT_GPR_ZERO] = 0;
    for (unsigned i = 0; i < SOFT_SREGS; i++)
        c->seg[i] = segment_in(v->segments[i]);
    control_in(c, v);
    /* The privilege level is SS's (SDM 3A, 5.5), but for real mode, whose selectors mean nothing. */
    c->cpl = !(c->cr0 & SOFT_CR0_PE) ? 0 : v->rflags & SOFT_EFL_VM ? 3 : c->seg[SOFT_SS].dpl;
    xsave_in(c, v->xsave.data, v->xsave.len);
    soft_lapic_load(c, v->lapic.data);
    if (msrs_in(c, v, e) < 0)
        return fy_fail_prefix(e, "vCPU %u", vcpu);
    c->tsc_adjust = v->tsc_adjust;
    events_in(c, v);
    c->leave = SOFT_LEAVE_NONE;
    c->retry = false;
    soft_code_drop_all(c);
    soft_tlb_flush(c);
    soft_mode_changed(c);
    return 0;
}
