// SPDX-License-Identifier: Apache-2.0
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/cpu/kvm/internal.h"

struct text {
    char *p;
    size_t len;
};

static void add(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p + t->len, FY_REPORT_MAX - t->len, fmt, ap);
    va_end(ap);
    if (n > 0)
        t->len += (size_t)n < FY_REPORT_MAX - t->len ? (size_t)n : FY_REPORT_MAX - t->len - 1;
}

static void add_bytes(struct fy_kvm *k, int fd, struct text *t, uint64_t linear)
{
    struct kvm_translation tr = {.linear_address = linear};
    uint8_t b[16];
    size_t n = 0;
    if (ioctl(fd, KVM_TRANSLATE, &tr) == 0 && tr.valid)
        while (n < sizeof b && (n == 0 || (linear + n) % 4096) &&
               fy_gmem_read(k->gmem, tr.physical_address + n, &b[n], 1, NULL) == 0)
            n++;
    add(t, "bytes at rip:");
    for (size_t i = 0; i < n; i++)
        add(t, " %02x", b[i]);
    add(t, n ? "\n" : " not readable\n");
}

void fy_kvm_report(struct fy_kvm *k, unsigned vcpu, const char *why, char *report)
{
    struct text t = {.p = report};
    int fd = k->vcpus[vcpu].fd;
    struct kvm_regs r;
    struct kvm_sregs s;
    add(&t, "vCPU %u: %s\n", vcpu, why);
    if (ioctl(fd, KVM_GET_REGS, &r) < 0 || ioctl(fd, KVM_GET_SREGS, &s) < 0) {
        add(&t, "its registers cannot be read\n");
        return;
    }
    /* AMD's manual leaves the state undefined after a shutdown, so that KVM begins anew before it reports it.
     */
    if (s.cs.base == 0xffff0000 && r.rip == 0xfff0)
        add(&t, "KVM has reset this vCPU: the registers are not those of the fault\n");
#define U(x) ((unsigned long long)(x))
    add(&t, "rax %016llx rbx %016llx rcx %016llx rdx %016llx\n", U(r.rax), U(r.rbx), U(r.rcx), U(r.rdx));
    add(&t, "rsi %016llx rdi %016llx rsp %016llx rbp %016llx\n", U(r.rsi), U(r.rdi), U(r.rsp), U(r.rbp));
    add(&t, "r8  %016llx r9  %016llx r10 %016llx r11 %016llx\n", U(r.r8), U(r.r9), U(r.r10), U(r.r11));
    add(&t, "r12 %016llx r13 %016llx r14 %016llx r15 %016llx\n", U(r.r12), U(r.r13), U(r.r14), U(r.r15));
    add(&t, "rip %016llx rflags %llx efer %llx\n", U(r.rip), U(r.rflags), U(s.efer));
    add(&t, "cr0 %llx cr2 %llx cr3 %llx cr4 %llx\n", U(s.cr0), U(s.cr2), U(s.cr3), U(s.cr4));
    add(&t, "cs %04x base %llx ss %04x base %llx ds %04x es %04x fs %04x gs %04x tr %04x\n", s.cs.selector,
        U(s.cs.base), s.ss.selector, U(s.ss.base), s.ds.selector, s.es.selector, s.fs.selector, s.gs.selector,
        s.tr.selector);
    add(&t, "gdt %llx/%x idt %llx/%x\n", U(s.gdt.base), s.gdt.limit, U(s.idt.base), s.idt.limit);
    add_bytes(k, fd, &t, s.cs.l ? r.rip : s.cs.base + r.rip);
}
