// SPDX-License-Identifier: Apache-2.0
/* The guest's clocks. One engine time feeds them all: the host's monotonic clock since the machine was made,
 * or with icount the count of instructions (in icount_ns each) and what passed in HLT. So they stay together
 * and never run backwards. */
#include "hv/base/clock.h"
#include "hv/cpu/soft/chips/internal.h"

uint64_t soft_clock_ns(const struct soft_vm *vm)
{
    const struct soft_chips *ch = vm->chips;
    if (!ch)
        return 0;
    if (vm->icount)
        return vm->cpus[0]->insns * vm->icount_ns + ch->warp_ns;
    return fy_now_ns() - ch->started_host;
}

uint64_t soft_ticks(const struct soft_vm *vm, uint64_t ns)
{
    return (uint64_t)((unsigned __int128)ns * vm->policy->tsc_khz / 1000000u);
}

uint64_t soft_ticks_to_ns(const struct soft_vm *vm, uint64_t ticks)
{
    uint32_t khz = vm->policy->tsc_khz ? vm->policy->tsc_khz : 1000000u;
    unsigned __int128 ns = (unsigned __int128)ticks * 1000000u / khz;
    return ns >> 62 ? 1ull << 62 : (uint64_t)ns;
}

uint64_t soft_tsc(const struct soft_cpu *c)
{
    const struct soft_chips *ch = c->vm->chips;
    return soft_ticks(c->vm, soft_clock_ns(c->vm)) +
           __atomic_load_n(&ch->tsc_offset[c->index], __ATOMIC_RELAXED);
}

void soft_tsc_write(struct soft_cpu *c, uint64_t value)
{
    struct soft_chips *ch = c->vm->chips;
    pthread_mutex_lock(&ch->lock);
    uint64_t was = ch->tsc_offset[c->index];
    uint64_t now = value - soft_ticks(c->vm, soft_clock_ns(c->vm));
    __atomic_store_n(&ch->tsc_offset[c->index], now, __ATOMIC_RELAXED);
    c->tsc_adjust += now - was;
    lapic_deadline_arm(c->lapic);
    pthread_mutex_unlock(&ch->lock);
}

uint64_t soft_guest_ns(const struct soft_vm *vm)
{
    return soft_clock_ns(vm) + vm->chips->guest_offset;
}
