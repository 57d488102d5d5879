// SPDX-License-Identifier: Apache-2.0
/* How fast does this KVM run ring 0, and does it run all of what kernels do there? One without hardware
 * virtualisation interprets it, at under a million instructions a second, and lacks some: an ordinary kernel
 * does not get through its boot there. */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "hv/base/clock.h"
#include "hv/base/io.h"
#include "hv/cpu/kvm/internal.h"

#define LOOPS 5000u
#define TRIES 3 /* the first one pays for the way into the guest */
#define CODE_GPA 0x1000u

/* 32-bit: mov ecx, LOOPS; 1: dec ecx; jnz 1b; out 0x80, al */
static const uint8_t code[] = {0xb9, LOOPS & 0xff, LOOPS >> 8, 0, 0, 0x49, 0x75, 0xfd, 0xe6, 0x80};

/* 32-bit; what a kernel does while it boots and an instruction emulator may lack. edi: scratch in the page.
 */
#define SCRATCH_GPA 0x1800u
static const uint8_t kernel_code[] = {
    0xbf,
    SCRATCH_GPA & 0xff,
    SCRATCH_GPA >> 8,
    0,
    0, /* mov edi, SCRATCH_GPA */
    0xf0,
    0x0f,
    0xc7,
    0x0f, /* lock cmpxchg8b [edi] */
    0xf0,
    0x0f,
    0xc1,
    0x07, /* lock xadd [edi], eax */
    0x0f,
    0xba,
    0x2f,
    0x03, /* bts dword [edi], 3 */
    0xdb,
    0xe3, /* fninit */
    0x0f,
    0xae,
    0x47,
    0x40, /* fxsave [edi + 64] */
    0x0f,
    0x31, /* rdtsc */
    0x31,
    0xc0,
    0x0f,
    0xa2, /* xor eax, eax; cpuid */
    0x0f,
    0x09, /* wbinvd */
    0x0f,
    0x01,
    0x3f, /* invlpg [edi] */
    0x0f,
    0x20,
    0xd8,
    0x0f,
    0x22,
    0xd8, /* mov eax, cr3; mov cr3, eax */
    0xb9,
    0x1b,
    0,
    0,
    0,
    0x0f,
    0x32,
    0x0f,
    0x30, /* mov ecx, APIC_BASE; rdmsr; wrmsr */
    0x0f,
    0x01,
    0x07, /* sgdt [edi] */
    0xe6,
    0x80, /* out 0x80, al */
};

static int enter(int vcpu)
{
    struct kvm_sregs s;
    struct kvm_regs r = {.rip = CODE_GPA, .rflags = 2};
    if (ioctl(vcpu, KVM_GET_SREGS, &s) < 0)
        return -1;
    struct kvm_segment flat = {.limit = ~0u, .selector = 8, .type = 3, .present = 1, .s = 1, .g = 1, .db = 1};
    s.ds = s.es = s.fs = s.gs = s.ss = flat;
    s.cs = flat;
    s.cs.type = 0xb;
    s.cr0 |= 1;
    return ioctl(vcpu, KVM_SET_SREGS, &s) < 0 || ioctl(vcpu, KVM_SET_REGS, &r) < 0 ? -1 : 0;
}

static bool runs_kernels(int vcpu, const struct kvm_run *run, uint8_t *page)
{
    memcpy(page, kernel_code, sizeof kernel_code);
    return enter(vcpu) == 0 && ioctl(vcpu, KVM_RUN, 0) == 0 && run->exit_reason == KVM_EXIT_IO;
}

int fy_kvm_ring0(int kvm_fd, int vm, int vcpu, double *mips, bool *complete)
{
    int r = -1;
    int size = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
    size_t run_size = size > 0 ? (size_t)size : 4096;
    struct kvm_run *run = mmap(NULL, run_size, PROT_READ | PROT_WRITE, MAP_SHARED, vcpu, 0);
    uint8_t *page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct kvm_userspace_memory_region m = {
        .guest_phys_addr = CODE_GPA, .memory_size = 4096, .userspace_addr = (uint64_t)(uintptr_t)page};
    if (run == MAP_FAILED || page == MAP_FAILED)
        goto out;
    memcpy(page, code, sizeof code);
    if (ioctl(vm, KVM_SET_USER_MEMORY_REGION, &m) < 0)
        goto out;
    for (int i = 0; i < TRIES && enter(vcpu) == 0; i++) {
        uint64_t start = fy_now_ns();
        if (ioctl(vcpu, KVM_RUN, 0) < 0 || run->exit_reason != KVM_EXIT_IO)
            break;
        double now = 2.0 * LOOPS * 1e3 / (double)(fy_now_ns() - start);
        *mips = i && *mips > now ? *mips : now;
        r = 0;
    }
    *complete = r == 0 && runs_kernels(vcpu, run, page);
    m.memory_size = 0;
    ioctl(vm, KVM_SET_USER_MEMORY_REGION, &m);
out:
    if (page != MAP_FAILED)
        munmap(page, 4096);
    if (run != MAP_FAILED)
        munmap(run, run_size);
    return r;
}
