// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/cpu/kvm/internal.h"

/* Machine-check banks of machine revision 1, and the capability bit for MCG_CTL (Intel SDM volume 3, 16.3.1).
 */
#define MCE_BANKS 10u
#define MCG_CTL_P (1u << 8)

static void on_kick(int signo)
{
    (void)signo; /* its arrival is what ends KVM_RUN */
}

static int kick_signal(void)
{
    return SIGRTMIN;
}

static int set_cpuid(struct fy_kvm *k, unsigned i, struct fy_err *e)
{
    struct fy_cpuid leaves[FY_CPUID_MAX];
    size_t n = fy_cpu_leaves(k->policy, i, k->vcpu_count, leaves);
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + n * sizeof c->entries[0]);
    if (!c)
        return fy_fail(e, FY_ERESOURCE, "no memory for CPUID leaves");
    c->nent = (uint32_t)n;
    for (size_t l = 0; l < n; l++)
        c->entries[l] = (struct kvm_cpuid_entry2){
            .function = leaves[l].function,
            .index = leaves[l].index,
            .flags = leaves[l].indexed ? KVM_CPUID_FLAG_SIGNIFCANT_INDEX : 0,
            .eax = leaves[l].r[0],
            .ebx = leaves[l].r[1],
            .ecx = leaves[l].r[2],
            .edx = leaves[l].r[3],
        };
    int r = ioctl(k->vcpus[i].fd, KVM_SET_CPUID2, c);
    free(c);
    return r < 0 ? fy_fail_errno(e, FY_EREFUSED, errno, "KVM refuses the CPU model's CPUID") : 0;
}

int fy_kvm_vcpu_create(struct fy_kvm *k, unsigned i, struct fy_err *e)
{
    struct fy_kvm_vcpu *v = &k->vcpus[i];
    v->fd = ioctl(k->vm_fd, KVM_CREATE_VCPU, i);
    if (v->fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "KVM cannot make vCPU %u", i);
    void *p = mmap(NULL, k->run_size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);
    if (p == MAP_FAILED)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map vCPU %u", i);
    v->run = p;
    if (set_cpuid(k, i, e) < 0)
        return -1;
    uint64_t offered = 0, mce = MCE_BANKS | MCG_CTL_P;
    if (ioctl(k->kvm_fd, KVM_X86_GET_MCE_CAP_SUPPORTED, &offered) < 0 || !(offered & MCG_CTL_P) ||
        fy_kvm_cap(k->kvm_fd, KVM_CAP_MCE) < (int)MCE_BANKS || ioctl(v->fd, KVM_X86_SETUP_MCE, &mce) < 0)
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "KVM cannot give a vCPU %u machine-check banks",
                             MCE_BANKS);
    if (fy_kvm_tsc_setup(k, i, e) < 0)
        return -1;
    return k->ring_entries ? fy_kvm_ring_map(k, i, e) : 0;
}

void fy_kvm_vcpu_destroy(struct fy_kvm *k, unsigned i)
{
    struct fy_kvm_vcpu *v = &k->vcpus[i];
    if (v->ring)
        munmap(v->ring, k->ring_entries * sizeof *v->ring);
    if (v->run)
        munmap(v->run, k->run_size);
    if (v->pristine)
        ferry__vcpu__free_unpacked(v->pristine, NULL);
    fy_close(&v->fd);
}

void fy_kvm_vcpu_attach(struct fy_engine *en, unsigned vcpu)
{
    struct sigaction sa = {.sa_handler = on_kick};
    sigset_t set;
    sigaction(kick_signal(), &sa, NULL);
    sigemptyset(&set);
    sigaddset(&set, kick_signal());
    pthread_sigmask(SIG_UNBLOCK, &set, NULL);
    __atomic_store_n(&FY_KVM(en)->vcpus[vcpu].tid, (pid_t)syscall(SYS_gettid), __ATOMIC_SEQ_CST);
}

void fy_kvm_vcpu_kick(struct fy_engine *en, unsigned vcpu)
{
    struct fy_kvm_vcpu *v = &FY_KVM(en)->vcpus[vcpu];
    /* The flag ends a KVM_RUN that begins later, the signal one that has begun. */
    __atomic_store_n(&v->run->immediate_exit, 1, __ATOMIC_SEQ_CST);
    pid_t tid = __atomic_load_n(&v->tid, __ATOMIC_SEQ_CST);
    if (tid)
        syscall(SYS_tgkill, getpid(), tid, kick_signal());
}

void fy_kvm_vcpu_unkick(struct fy_engine *en, unsigned vcpu)
{
    __atomic_store_n(&FY_KVM(en)->vcpus[vcpu].run->immediate_exit, 0, __ATOMIC_SEQ_CST);
}

static uint64_t get_le(const uint8_t *p, unsigned size)
{
    uint64_t v = 0;
    memcpy(&v, p, size);
    return v;
}

static void do_io(struct fy_kvm *k, struct kvm_run *run)
{
    uint8_t *data = (uint8_t *)run + run->io.data_offset;
    for (uint32_t i = 0; i < run->io.count; i++, data += run->io.size) {
        if (run->io.direction == KVM_EXIT_IO_OUT) {
            fy_bus_write(k->bus, FY_SPACE_PORT, run->io.port, run->io.size, get_le(data, run->io.size));
        } else {
            uint64_t v = fy_bus_read(k->bus, FY_SPACE_PORT, run->io.port, run->io.size);
            memcpy(data, &v, run->io.size);
        }
    }
}

static void do_mmio(struct fy_kvm *k, struct kvm_run *run)
{
    unsigned len = run->mmio.len > 8 ? 8 : run->mmio.len;
    if (run->mmio.is_write) {
        fy_bus_write(k->bus, FY_SPACE_MMIO, run->mmio.phys_addr, len, get_le(run->mmio.data, len));
    } else {
        uint64_t v = fy_bus_read(k->bus, FY_SPACE_MMIO, run->mmio.phys_addr, len);
        memcpy(run->mmio.data, &v, len);
    }
}

/* Deal with an exit. NULL: go on; else why the guest cannot (text of its own, or in buf). */
static const char *do_exit(struct fy_kvm *k, struct kvm_run *run, char *buf, size_t room)
{
    switch (run->exit_reason) {
    case KVM_EXIT_IO:
        do_io(k, run);
        return NULL;
    case KVM_EXIT_MMIO:
        do_mmio(k, run);
        return NULL;
    case KVM_EXIT_DIRTY_RING_FULL:
        fy_kvm_ring_harvest(k);
        return NULL;
    case KVM_EXIT_INTR:
    case KVM_EXIT_HLT:
    case KVM_EXIT_IRQ_WINDOW_OPEN:
    case KVM_EXIT_SET_TPR:
    case KVM_EXIT_IOAPIC_EOI:
        return NULL;
    case KVM_EXIT_SHUTDOWN:
        return "triple fault";
    case KVM_EXIT_FAIL_ENTRY:
        snprintf(buf, room, "the processor refuses the guest's state (hardware reason 0x%llx)",
                 (unsigned long long)run->fail_entry.hardware_entry_failure_reason);
        return buf;
    case KVM_EXIT_INTERNAL_ERROR:
        if (run->internal.suberror == KVM_INTERNAL_ERROR_EMULATION)
            return "KVM cannot emulate an instruction";
        snprintf(buf, room, "KVM internal error %u", run->internal.suberror);
        return buf;
    default:
        snprintf(buf, room, "KVM exit %u that nothing here handles", run->exit_reason);
        return buf;
    }
}

enum fy_vcpu_end fy_kvm_vcpu_run(struct fy_engine *en, unsigned vcpu, char *report)
{
    struct fy_kvm *k = FY_KVM(en);
    struct fy_kvm_vcpu *v = &k->vcpus[vcpu];
    char buf[160];
    for (;;) {
        const char *why = NULL;
        if (ioctl(v->fd, KVM_RUN, 0) == 0) {
            why = do_exit(k, v->run, buf, sizeof buf);
        } else if (errno != EINTR && errno != EAGAIN) {
            snprintf(buf, sizeof buf, "KVM_RUN: %s%s", strerror(errno),
                     errno == EFAULT ? " (a page of the guest cannot be had: the host's memory is short)"
                                     : "");
            why = buf;
        }
        if (why) {
            fy_kvm_report(k, vcpu, why, report);
            return FY_VCPU_CRASHED;
        }
        if (__atomic_load_n(&v->run->immediate_exit, __ATOMIC_SEQ_CST))
            return FY_VCPU_KICKED;
    }
}

void fy_kvm_vcpu_settle(struct fy_engine *en, unsigned vcpu)
{
    struct fy_kvm *k = FY_KVM(en);
    struct fy_kvm_vcpu *v = &k->vcpus[vcpu];
    /* KVM_RUN with immediate_exit finishes the instruction in hand without entering the guest. A wide access
     * comes in pieces, each an exit of its own; any other exit will come again when the vCPU runs. */
    while (ioctl(v->fd, KVM_RUN, 0) == 0) {
        if (v->run->exit_reason == KVM_EXIT_IO)
            do_io(k, v->run);
        else if (v->run->exit_reason == KVM_EXIT_MMIO)
            do_mmio(k, v->run);
        else
            break;
    }
}
