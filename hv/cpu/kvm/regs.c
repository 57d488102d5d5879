// SPDX-License-Identifier: Apache-2.0
/* A vCPU's state, out of KVM and into it. The order of loading is in docs/spec/state.md and is no accident.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/base/checked.h"
#include "hv/cpu/kvm/internal.h"
#include "hv/cpu/state.h"

static uint64_t *words(size_t n)
{
    return calloc(n, sizeof(uint64_t));
}

static Ferry__Segment *segment_out(const struct kvm_segment *s)
{
    Ferry__Segment *o = malloc(sizeof *o);
    if (!o)
        return NULL;
    ferry__segment__init(o);
    o->base_address = s->base;
    o->limit = s->limit;
    o->selector = s->selector;
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

static struct kvm_segment segment_in(const Ferry__Segment *s)
{
    return (struct kvm_segment){
        .base = s->base_address,
        .limit = s->limit,
        .selector = (uint16_t)s->selector,
        .type = (uint8_t)s->type,
        .present = s->present,
        .dpl = (uint8_t)s->dpl,
        .db = s->db,
        .s = s->s,
        .l = s->l,
        .g = s->g,
        .avl = s->avl,
        .unusable = s->unusable,
    };
}

static int get_regs(int fd, Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_regs r;
    if (ioctl(fd, KVM_GET_REGS, &r) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_REGS");
    uint64_t gpr[16] = {r.rax, r.rcx, r.rdx, r.rbx, r.rsp, r.rbp, r.rsi, r.rdi,
                        r.r8,  r.r9,  r.r10, r.r11, r.r12, r.r13, r.r14, r.r15};
    v->gpr = words(16);
    if (!v->gpr)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    memcpy(v->gpr, gpr, sizeof gpr);
    v->n_gpr = 16;
    v->rip = r.rip;
    v->rflags = r.rflags;
    return 0;
}

static int get_segments(const struct kvm_sregs *s, Ferry__Vcpu *v, struct fy_err *e)
{
    const struct kvm_segment *all[8] = {&s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs, &s->ldt, &s->tr};
    v->segments = calloc(8, sizeof *v->segments);
    if (!v->segments)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    for (size_t i = 0; i < 8; i++) {
        v->segments[i] = segment_out(all[i]);
        if (!v->segments[i])
            return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
        v->n_segments++;
    }
    v->gdt_base = s->gdt.base;
    v->gdt_limit = s->gdt.limit;
    v->idt_base = s->idt.base;
    v->idt_limit = s->idt.limit;
    v->cr0 = s->cr0;
    v->cr2 = s->cr2;
    v->cr3 = s->cr3;
    v->cr4 = s->cr4;
    v->cr8 = s->cr8;
    v->efer = s->efer;
    v->apic_base = s->apic_base;
    return 0;
}

static int get_sregs(struct fy_kvm *k, int fd, Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_sregs s;
    if (ioctl(fd, KVM_GET_SREGS, &s) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_SREGS");
    if (get_segments(&s, v, e) < 0)
        return -1;
    struct kvm_sregs2 s2;
    if (k->has_sregs2 && ioctl(fd, KVM_GET_SREGS2, &s2) == 0 && s2.flags & KVM_SREGS2_FLAGS_PDPTRS_VALID) {
        v->pdptr = words(4);
        if (!v->pdptr)
            return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
        memcpy(v->pdptr, s2.pdptrs, sizeof s2.pdptrs);
        v->n_pdptr = 4;
    }
    return 0;
}

static int get_fpu(struct fy_kvm *k, int fd, Ferry__Vcpu *v, struct fy_err *e)
{
    /* KVM may want room for more than the 4 KiB of the classic area; the policy's components fit in them. */
    struct kvm_xsave *x = calloc(1, 65536);
    if (!x)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    int size = fy_kvm_cap(k->vm_fd, KVM_CAP_XSAVE2);
    if (size > 65536 || ioctl(fd, k->has_xsave2 ? KVM_GET_XSAVE2 : KVM_GET_XSAVE, x) < 0) {
        free(x);
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_XSAVE");
    }
    size_t len = FY_XSAVE_MAX;
    const uint8_t *bytes = (const uint8_t *)x;
    while (len > FY_XSAVE_MIN && bytes[len - 1] == 0)
        len--;
    v->xsave.data = (uint8_t *)x;
    v->xsave.len = len;
    v->xcr = words(1);
    if (!v->xcr)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    v->n_xcr = 1;
    v->xcr[0] = 1;
    struct kvm_xcrs xcrs;
    if (k->has_xcrs) {
        if (ioctl(fd, KVM_GET_XCRS, &xcrs) < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_XCRS");
        for (uint32_t i = 0; i < xcrs.nr_xcrs && i < KVM_MAX_XCRS; i++)
            if (xcrs.xcrs[i].xcr == 0)
                v->xcr[0] = xcrs.xcrs[i].value;
    }
    return 0;
}

static int get_lapic(int fd, Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_lapic_state *l = malloc(sizeof *l);
    if (!l)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    v->lapic.data = (uint8_t *)l;
    v->lapic.len = sizeof *l;
    if (ioctl(fd, KVM_GET_LAPIC, l) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_LAPIC");
    return 0;
}

Ferry__Vcpu *fy_kvm_vcpu_save(struct fy_engine *en, unsigned vcpu, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    int fd = k->vcpus[vcpu].fd;
    Ferry__Vcpu *v = malloc(sizeof *v);
    if (!v) {
        fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
        return NULL;
    }
    ferry__vcpu__init(v);
    v->index = vcpu;
    /* Events first: KVM acts on a pending INIT or SIPI when asked for the run state. */
    if (fy_kvm_events_get(k, fd, v, e) < 0 || get_regs(fd, v, e) < 0 || get_sregs(k, fd, v, e) < 0 ||
        get_fpu(k, fd, v, e) < 0 || get_lapic(fd, v, e) < 0 || fy_kvm_msrs_get(k, fd, v, e) < 0) {
        fy_fail_prefix(e, "saving vCPU %u", vcpu);
        ferry__vcpu__free_unpacked(v, NULL);
        return NULL;
    }
    return v;
}

static void sregs_in(const Ferry__Vcpu *v, struct kvm_sregs2 *s)
{
    struct kvm_segment *all[8] = {&s->es, &s->cs, &s->ss, &s->ds, &s->fs, &s->gs, &s->ldt, &s->tr};
    memset(s, 0, sizeof *s);
    for (int i = 0; i < 8; i++)
        *all[i] = segment_in(v->segments[i]);
    s->gdt.base = v->gdt_base;
    s->gdt.limit = (uint16_t)v->gdt_limit;
    s->idt.base = v->idt_base;
    s->idt.limit = (uint16_t)v->idt_limit;
    s->cr0 = v->cr0;
    s->cr2 = v->cr2;
    s->cr3 = v->cr3;
    s->cr4 = v->cr4;
    s->cr8 = v->cr8;
    s->efer = v->efer;
    s->apic_base = v->apic_base;
    if (v->n_pdptr == 4) {
        s->flags = KVM_SREGS2_FLAGS_PDPTRS_VALID;
        memcpy(s->pdptrs, v->pdptr, sizeof s->pdptrs);
    }
}

static int set_sregs(struct fy_kvm *k, int fd, const Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_sregs2 s2;
    sregs_in(v, &s2);
    if (k->has_sregs2)
        return ioctl(fd, KVM_SET_SREGS2, &s2) < 0 ? fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_SREGS2")
                                                  : 0;
    struct kvm_sregs s;
    memset(&s, 0, sizeof s);
    /* The two structs agree up to apic_base (asm/kvm.h). */
    memcpy(&s, &s2, offsetof(struct kvm_sregs, interrupt_bitmap));
    return ioctl(fd, KVM_SET_SREGS, &s) < 0 ? fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_SREGS") : 0;
}

static int set_regs(int fd, const Ferry__Vcpu *v, struct fy_err *e)
{
    const uint64_t *g = v->gpr;
    struct kvm_regs r = {.rax = g[0],
                         .rcx = g[1],
                         .rdx = g[2],
                         .rbx = g[3],
                         .rsp = g[4],
                         .rbp = g[5],
                         .rsi = g[6],
                         .rdi = g[7],
                         .r8 = g[8],
                         .r9 = g[9],
                         .r10 = g[10],
                         .r11 = g[11],
                         .r12 = g[12],
                         .r13 = g[13],
                         .r14 = g[14],
                         .r15 = g[15],
                         .rip = v->rip,
                         .rflags = v->rflags};
    return ioctl(fd, KVM_SET_REGS, &r) < 0 ? fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_REGS") : 0;
}

static int set_fpu(struct fy_kvm *k, int fd, const Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_xcrs xcrs = {.nr_xcrs = 1, .xcrs = {{.xcr = 0, .value = v->xcr[0]}}};
    if (k->has_xcrs && ioctl(fd, KVM_SET_XCRS, &xcrs) < 0)
        return fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_XCRS (xcr0 0x%llx)",
                             (unsigned long long)v->xcr[0]);
    /* KVM reads as much as it would have written. */
    struct kvm_xsave *x = calloc(1, 65536);
    if (!x)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    memcpy(x, v->xsave.data, FY_MIN(v->xsave.len, (size_t)FY_XSAVE_MAX));
    int r = ioctl(fd, KVM_SET_XSAVE, x);
    int err = errno;
    free(x);
    return r < 0 ? fy_fail_errno(e, FY_ECORRUPT, err, "KVM_SET_XSAVE") : 0;
}

static int set_lapic(int fd, const Ferry__Vcpu *v, struct fy_err *e)
{
    struct kvm_lapic_state l;
    memcpy(&l, v->lapic.data, sizeof l);
    return ioctl(fd, KVM_SET_LAPIC, &l) < 0 ? fy_fail_errno(e, FY_ECORRUPT, errno, "KVM_SET_LAPIC") : 0;
}

int fy_kvm_vcpu_load(struct fy_engine *en, unsigned vcpu, const Ferry__Vcpu *v, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    int fd = k->vcpus[vcpu].fd;
    if (set_sregs(k, fd, v, e) < 0 || set_regs(fd, v, e) < 0 || set_fpu(k, fd, v, e) < 0 ||
        set_lapic(fd, v, e) < 0 || fy_kvm_msrs_set(k, fd, v, e) < 0 || fy_kvm_events_set(k, fd, v, e) < 0)
        return fy_fail_prefix(e, "loading vCPU %u", vcpu);
    return 0;
}
