// SPDX-License-Identifier: Apache-2.0
/* The TSC and kvmclock. All TSCs and kvmclock are read and set against one pair of host TSC and real time, so
 * that they advance by the same pause (Linux Documentation/virt/kvm/devices/vcpu.rst, section 4). */
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <x86intrin.h>

#include "hv/base/clock.h"
#include "hv/base/log.h"
#include "hv/cpu/kvm/internal.h"

#define MSR_TSC 0x10u
/* KVM itself takes frequencies that are this near for the same. */
#define SAME_PPM 250u
#define OFFSET_STEP (1ull << 44)
#define OFFSET_SLACK (1ull << 34)
/* A TSC that jumps further than this is worth a warning. */
#define JUMP_NS 1000000000ull

static int offset_get(int fd, uint64_t *offset)
{
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)offset};
    return ioctl(fd, KVM_GET_DEVICE_ATTR, &a);
}

static int offset_set(int fd, uint64_t offset)
{
    struct kvm_device_attr a = {
        .group = KVM_VCPU_TSC_CTRL, .attr = KVM_VCPU_TSC_OFFSET, .addr = (uint64_t)(uintptr_t)&offset};
    return ioctl(fd, KVM_SET_DEVICE_ATTR, &a);
}

bool fy_kvm_tsc_can_offset(int fd)
{
    uint64_t was, now = 0;
    if (offset_get(fd, &was) < 0)
        return false;
    /* Some hosts accept the write and ignore it. One whose TSC is unstable adjusts offsets as it goes, by
     * little. */
    uint64_t other = was ^ OFFSET_STEP;
    bool ok = offset_set(fd, other) == 0 && offset_get(fd, &now) == 0 &&
              now - other + OFFSET_SLACK < 2 * OFFSET_SLACK;
    return offset_set(fd, was) == 0 && ok;
}

int fy_kvm_tsc_setup(struct fy_kvm *k, unsigned i, struct fy_err *e)
{
    int fd = k->vcpus[i].fd;
    if (i == 0) {
        int khz = ioctl(fd, KVM_GET_TSC_KHZ, 0);
        if (khz <= 0)
            return fy_fail(e, FY_EUNSUPPORTED, "KVM does not know its TSC's frequency");
        k->host_khz = (uint32_t)khz;
        k->tsc_offsets = fy_kvm_tsc_can_offset(fd);
        uint64_t want = k->policy->tsc_khz;
        uint64_t diff = want > k->host_khz ? want - k->host_khz : k->host_khz - want;
        k->tsc_scaled =
            diff * 1000000 > (uint64_t)k->host_khz * SAME_PPM && fy_kvm_cap(k->kvm_fd, KVM_CAP_TSC_CONTROL);
    }
    if (k->tsc_scaled && ioctl(fd, KVM_SET_TSC_KHZ, (unsigned long)k->policy->tsc_khz) < 0)
        return fy_fail_errno(e, FY_EREFUSED, errno, "KVM cannot run a TSC at %u kHz", k->policy->tsc_khz);
    return 0;
}

static uint64_t ticks(uint32_t khz, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * khz / 1000000);
}

static uint64_t to_ns(uint32_t khz, uint64_t n)
{
    return (uint64_t)((unsigned __int128)n * 1000000 / khz);
}

struct instant {
    uint64_t tsc; /* host TSC, scaled to the guest's rate */
    uint64_t realtime_ns;
    uint64_t guest_ns; /* kvmclock */
};

/* The host's TSC at the guest's rate, now. */
static int scaled_tsc(struct fy_kvm *k, uint64_t *tsc)
{
    uint64_t offset = 0;
    if (!k->tsc_scaled) {
        *tsc = __rdtsc();
        return 0;
    }
    if (offset_get(k->vcpus[0].fd, &offset) < 0 || fy_kvm_msr_read(k->vcpus[0].fd, MSR_TSC, tsc) < 0)
        return -1;
    *tsc -= offset;
    return 0;
}

static int read_instant(struct fy_kvm *k, struct instant *at, struct fy_err *e)
{
    struct kvm_clock_data c;
    uint64_t best = UINT64_MAX;
    /* The try with the shortest time between its ends is the most exact. */
    for (int i = 0; i < 3; i++) {
        uint64_t a, b;
        memset(&c, 0, sizeof c);
        if (scaled_tsc(k, &a) < 0 || ioctl(k->vm_fd, KVM_GET_CLOCK, &c) < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_CLOCK");
        uint64_t real = fy_realtime_ns();
        if (scaled_tsc(k, &b) < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "reading the TSC");
        if (i > 0 && b - a >= best)
            continue;
        best = b - a;
        bool exact = c.flags & KVM_CLOCK_HOST_TSC && c.flags & KVM_CLOCK_REALTIME && !k->tsc_scaled;
        *at = exact ? (struct instant){c.host_tsc, c.realtime, c.clock}
                    : (struct instant){a + best / 2, real, c.clock};
    }
    return 0;
}

int fy_kvm_clock_save(struct fy_engine *en, Ferry__Clock *clock, uint64_t *tsc, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    struct instant at;
    if (read_instant(k, &at, e) < 0)
        return -1;
    for (unsigned i = 0; i < k->vcpu_count; i++) {
        uint64_t offset = 0;
        if (k->tsc_offsets && offset_get(k->vcpus[i].fd, &offset) < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "reading the TSC offset of vCPU %u", i);
        tsc[i] = at.tsc + offset;
    }
    clock->guest_ns = at.guest_ns;
    clock->realtime_ns = at.realtime_ns;
    clock->tsc = tsc[0];
    return 0;
}

/* This host's guests see its own TSC: a guest can only come where that is not behind its own. */
static int check_plain_tsc(struct fy_kvm *k, const uint64_t *tsc, uint64_t host, uint64_t elapsed,
                           char *warning, struct fy_err *e)
{
    uint64_t most = 0;
    for (unsigned i = 0; i < k->vcpu_count; i++)
        most = tsc[i] > most ? tsc[i] : most;
    if (most > host)
        return fy_fail(
            e, FY_EREFUSED,
            "the guest's TSC is %.1f s ahead of this host's, which cannot give guests a TSC of their own",
            (double)to_ns(k->policy->tsc_khz, most - host) / 1e9);
    uint64_t want = most + ticks(k->policy->tsc_khz, elapsed);
    if (host > want && to_ns(k->policy->tsc_khz, host - want) > JUMP_NS)
        snprintf(warning, FY_ERR_TEXT,
                 "the guest's TSC jumps forward by %.1f s: this host cannot give guests a TSC of their own",
                 (double)to_ns(k->policy->tsc_khz, host - want) / 1e9);
    return 0;
}

int fy_kvm_clock_load(struct fy_engine *en, const Ferry__Clock *clock, const uint64_t *tsc,
                      uint64_t *elapsed_ns, char *warning, struct fy_err *e)
{
    struct fy_kvm *k = FY_KVM(en);
    struct instant at;
    warning[0] = 0;
    if (read_instant(k, &at, e) < 0)
        return -1;
    /* The hosts' real-time clocks may differ: a target that is behind makes no time pass. */
    uint64_t elapsed = at.realtime_ns > clock->realtime_ns ? at.realtime_ns - clock->realtime_ns : 0;
    if (clock->guest_ns > UINT64_MAX / 4 || elapsed > UINT64_MAX / 4)
        return fy_fail(e, FY_ECORRUPT, "clock state: out of range");
    if (!k->tsc_offsets && check_plain_tsc(k, tsc, at.tsc, elapsed, warning, e) < 0)
        return -1;
    for (unsigned i = 0; k->tsc_offsets && i < k->vcpu_count; i++)
        if (offset_set(k->vcpus[i].fd, tsc[i] + ticks(k->policy->tsc_khz, elapsed) - at.tsc) < 0)
            return fy_fail_errno(e, FY_EFAIL, errno, "setting the TSC offset of vCPU %u", i);
    struct kvm_clock_data c = {.clock = clock->guest_ns + elapsed};
    if (fy_kvm_cap(k->vm_fd, KVM_CAP_ADJUST_CLOCK) & KVM_CLOCK_REALTIME) {
        c.flags = KVM_CLOCK_REALTIME;
        c.realtime = at.realtime_ns; /* KVM adds what has passed since */
    }
    if (ioctl(k->vm_fd, KVM_SET_CLOCK, &c) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_SET_CLOCK");
    *elapsed_ns = elapsed;
    return 0;
}

void fy_kvm_clock_resumed(struct fy_engine *en)
{
    struct fy_kvm *k = FY_KVM(en);
    /* Fails where the guest does not use kvmclock, which is fine. */
    for (unsigned i = 0; i < k->vcpu_count; i++)
        (void)ioctl(k->vcpus[i].fd, KVM_KVMCLOCK_CTRL, 0);
}
