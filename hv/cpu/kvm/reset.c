// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/cpu/kvm/internal.h"

#define CR0_PE 1u
#define CR0_ET (1u << 4)
#define CR0_PG (1u << 31)
#define CR4_PAE (1u << 5)
#define EFER_LME (1u << 8)
#define EFER_LMA (1u << 10)

static struct kvm_segment flat(uint16_t selector, uint8_t type, bool long_mode)
{
    return (struct kvm_segment){
        .limit = 0xffffffffu,
        .selector = selector,
        .type = type,
        .present = 1,
        .s = 1,
        .g = 1,
        .l = long_mode,
        .db = !long_mode,
    };
}

static struct kvm_segment real_segment(uint16_t selector, uint8_t type)
{
    return (struct kvm_segment){.base = (uint64_t)selector << 4,
                                .limit = 0xffff,
                                .selector = selector,
                                .type = type,
                                .present = 1,
                                .s = 1};
}

static void real_mode(struct kvm_sregs *s, const struct fy_cpu_boot *b)
{
    s->cs = real_segment(b->real_cs, 0xb);
    s->ds = s->es = s->fs = s->gs = s->ss = real_segment(b->real_ds, 0x3);
    s->cr0 = CR0_ET;
}

static int apply_boot(struct fy_kvm *k, int fd, const struct fy_cpu_boot *b, struct fy_err *e)
{
    (void)k;
    struct kvm_sregs s;
    if (ioctl(fd, KVM_GET_SREGS, &s) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_SREGS");
    s.cs = flat(0x10, 0xb, b->long_mode);
    s.ds = s.es = s.fs = s.gs = s.ss = flat(0x18, 0x3, false);
    s.tr = (struct kvm_segment){.limit = 0x67, .type = 0xb, .present = 1};
    s.cr0 = CR0_PE | CR0_ET;
    s.cr4 = 0;
    s.efer = 0;
    if (b->real)
        real_mode(&s, b);
    if (b->long_mode) {
        s.cr0 |= CR0_PG;
        s.cr3 = b->cr3;
        s.cr4 = CR4_PAE;
        s.efer = EFER_LME | EFER_LMA;
    }
    if (b->gdt_limit) {
        s.gdt.base = b->gdt_base;
        s.gdt.limit = b->gdt_limit;
    }
    if (ioctl(fd, KVM_SET_SREGS, &s) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_SET_SREGS for the boot");
    struct kvm_regs r = {
        .rip = b->rip, .rsp = b->rsp, .rax = b->rax, .rbx = b->rbx, .rsi = b->rsi, .rflags = 2};
    if (ioctl(fd, KVM_SET_REGS, &r) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_SET_REGS for the boot");
    return 0;
}

int fy_kvm_vcpu_reset(struct fy_engine *en, unsigned vcpu, const struct fy_cpu_boot *boot, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    if (fy_kvm_vcpu_load(en, vcpu, k->vcpus[vcpu].pristine, e) < 0)
        return fy_fail_prefix(e, "reset of vCPU %u", vcpu);
    return boot && !boot->at_reset ? apply_boot(k, k->vcpus[vcpu].fd, boot, e) : 0;
}
