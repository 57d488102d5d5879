// SPDX-License-Identifier: Apache-2.0
/* The pages of KVM's paravirtual clocks. Layouts: Linux Documentation/virt/kvm/x86/msr.rst.
 *
 * Every vCPU's page names the same instant, when the engine's time was 0: so all pages agree to the
 * nanosecond however far apart they were written, and the multiplier, which is rounded down, only ever makes
 * the guest's reading late. */
#include <time.h>

#include "hv/base/clock.h"
#include "hv/cpu/soft/chips/internal.h"
#include "hv/cpu/soft/state.h"
#include "hv/cpu/soft/sys.h"

#define TIME_STABLE 1u
#define TIME_STOPPED 2u

struct time_page {
    uint32_t version, pad;
    uint64_t tsc, ns;
    uint32_t mul;
    int8_t shift;
    uint8_t flags, more[2];
};

struct wall_page {
    uint32_t version, sec, nsec;
};

/* ns = (ticks << shift) * mul >> 32, shift chosen so that mul has its top bit. */
static void scale(uint32_t khz, uint32_t *mul, int8_t *shift)
{
    unsigned __int128 v = ((unsigned __int128)1000000u << 64) / (khz ? khz : 1000000u);
    int s = 32;
    while (v >> 64 == 0 && s > -31) {
        v <<= 1;
        s--;
    }
    /* v = 2^(64 - ...) * ns per tick with its top at bit 64. */
    while (v >> 65) {
        v >>= 1;
        s++;
    }
    *mul = (uint32_t)(v >> 33);
    *shift = (int8_t)(s - 31);
}

/* As a device does, outside of the guest: whoever clears the dirty log holds its lock, which a write takes,
 * and waits for the vCPUs that are inside. */
static void write_guest(struct soft_cpu *c, uint64_t gpa, const void *from, uint64_t n)
{
    bool inside = __atomic_load_n(&c->in_guest, __ATOMIC_RELAXED);
    if (inside)
        soft_leave_guest(c);
    fy_gmem_write(c->vm->gmem, gpa, from, n, NULL);
    if (inside)
        soft_enter_guest(c);
}

static uint32_t version_at(const struct soft_cpu *c, uint64_t gpa)
{
    uint32_t v = 0;
    fy_gmem_read(c->vm->gmem, gpa, &v, 4, NULL);
    return v;
}

static bool shared(const struct soft_vm *vm)
{
    for (unsigned i = 1; i < vm->vcpus; i++)
        if (__atomic_load_n(&vm->chips->tsc_offset[i], __ATOMIC_RELAXED) !=
            __atomic_load_n(&vm->chips->tsc_offset[0], __ATOMIC_RELAXED))
            return false;
    return true;
}

void sys_system_time(struct soft_cpu *c, bool stopped)
{
    uint64_t gpa = c->kvm_system_time & ~1ull;
    const struct soft_chips *ch = c->vm->chips;
    struct time_page p = {.tsc = __atomic_load_n(&ch->tsc_offset[c->index], __ATOMIC_RELAXED),
                          .ns = ch->guest_offset,
                          .flags =
                              (uint8_t)((shared(c->vm) ? TIME_STABLE : 0) | (stopped ? TIME_STOPPED : 0))};
    if (!(c->kvm_system_time & 1))
        return;
    scale(c->vm->policy->tsc_khz, &p.mul, &p.shift);
    /* Odd while it is being written. */
    p.version = version_at(c, gpa) | 1;
    write_guest(c, gpa, &p.version, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    write_guest(c, gpa + 4, (const uint8_t *)&p + 4, sizeof p - 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    p.version++;
    write_guest(c, gpa, &p.version, 4);
}

void soft_kvmclock_update(struct soft_cpu *c)
{
    sys_system_time(c, true);
}

/* The real time at which the guest's clock was 0. */
void sys_wall_clock(struct soft_cpu *c, uint64_t gpa)
{
    uint64_t real = c->vm->icount ? soft_icount_epoch_ns(c->vm) + soft_clock_ns(c->vm) : fy_realtime_ns();
    uint64_t ns = soft_guest_ns(c->vm);
    uint64_t start = real > ns ? real - ns : 0;
    struct wall_page p = {.sec = (uint32_t)(start / 1000000000u), .nsec = (uint32_t)(start % 1000000000u)};
    if (!gpa)
        return;
    p.version = version_at(c, gpa) | 1;
    write_guest(c, gpa, &p.version, 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    write_guest(c, gpa + 4, (const uint8_t *)&p + 4, sizeof p - 4);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    p.version++;
    write_guest(c, gpa, &p.version, 4);
}

/* Nothing is ever stolen: the time stays, the version is even, preempted is 0. */
void sys_steal_time(struct soft_cpu *c)
{
    uint64_t gpa = c->kvm_steal_time & ~0x3full;
    uint8_t zero = 0;
    if (!(c->kvm_steal_time & 1))
        return;
    uint32_t version = (version_at(c, gpa + 8) + 1) & ~1u;
    write_guest(c, gpa + 8, &version, 4);
    write_guest(c, gpa + 16, &zero, 1);
}
