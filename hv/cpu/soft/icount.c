// SPDX-License-Identifier: Apache-2.0
/* Virtual time from the count of instructions: docs/adr/0005-icount.md. */
#include "hv/base/checked.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/chips/internal.h"
#include "hv/cpu/soft/vm.h"

#define HALTED 3
#define EPOCH_S 946684800ull               /* 2000-01-01 */
#define EPOCH_SPAN_S (30ull * 365 * 86400) /* the seed chooses among these */

/* The first count at which virtual time has reached `ns`. */
static uint64_t count_at(const struct soft_vm *vm, uint64_t ns)
{
    uint64_t warp = vm->chips->warp_ns;
    if (ns == NEVER)
        return FY_ICOUNT_NEVER;
    if (ns <= warp)
        return 0;
    return (ns - warp) / vm->icount_ns + ((ns - warp) % vm->icount_ns != 0);
}

static uint64_t next_due(const struct soft_vm *vm)
{
    return FY_MIN(chips_due(vm->chips), vm->alarm_due);
}

void soft_icount_turn(struct soft_cpu *c)
{
    struct soft_vm *vm = c->vm;
    struct soft_chips *ch = vm->chips;
    uint64_t now = soft_clock_ns(vm);
    if (now >= chips_due(ch)) {
        pthread_mutex_lock(&ch->lock);
        chips_fire(ch, now);
        pthread_mutex_unlock(&ch->lock);
    }
    if (now >= vm->alarm_due) {
        vm->alarm_due = FY_ICOUNT_NEVER;
        soft_leave_guest(c);
        vm->alarm(vm->alarm_arg);
        soft_enter_guest(c);
    }
    c->run_limit = FY_MIN(count_at(vm, next_due(vm)), vm->stop_at);
}

bool soft_icount_idle(struct soft_cpu *c)
{
    struct soft_vm *vm = c->vm;
    uint64_t due = next_due(vm), now = soft_clock_ns(vm);
    if (__atomic_load_n(&c->run_state, __ATOMIC_RELAXED) != HALTED || due == NEVER)
        return false;
    if (due > now)
        vm->chips->warp_ns += due - now;
    return true;
}

uint64_t soft_icount_epoch_ns(const struct soft_vm *vm)
{
    uint64_t x = vm->icount_seed * 0x9e3779b97f4a7c15ull;
    return (EPOCH_S + (x ^ x >> 32) % EPOCH_SPAN_S) * 1000000000u;
}

static void place(struct fy_engine *en, struct fy_icount_place *out)
{
    const struct soft_cpu *c = SOFT_VM(en)->cpus[0];
    *out = (struct fy_icount_place){
        .count = c->insns,
        .now_ns = soft_clock_ns(c->vm),
        .rip = c->rip,
        .halted = c->run_state == HALTED,
        .shadow = c->shadow,
    };
}

static void stop_at(struct fy_engine *en, uint64_t count)
{
    SOFT_VM(en)->stop_at = count;
}

static uint64_t now_ns(struct fy_engine *en)
{
    return soft_clock_ns(SOFT_VM(en));
}

static uint64_t realtime_ns(struct fy_engine *en)
{
    return soft_icount_epoch_ns(SOFT_VM(en)) + soft_clock_ns(SOFT_VM(en));
}

static void set_alarm(struct fy_engine *en, uint64_t ns)
{
    struct soft_vm *vm = SOFT_VM(en);
    vm->alarm_due = ns;
    /* It may be due before the count to which the vCPU runs. */
    __atomic_store_n(&vm->cpus[0]->limit, 0, __ATOMIC_SEQ_CST);
}

static void save(struct fy_engine *en, Ferry__Icount *out)
{
    const struct soft_vm *vm = SOFT_VM(en);
    out->count = vm->cpus[0]->insns;
    out->warp_ns = vm->chips->warp_ns;
    out->lapic_due_ns = vm->chips->lapics[0].due;
    out->pit_due_ns = vm->chips->pit_due;
}

static bool due_ok(uint64_t ns)
{
    return ns == NEVER || ns < 2 * FY_ICOUNT_MAX;
}

static int load(struct fy_engine *en, const Ferry__Icount *in, struct fy_err *e)
{
    struct soft_vm *vm = SOFT_VM(en);
    if (in->count >= FY_ICOUNT_MAX / vm->icount_ns || in->warp_ns >= FY_ICOUNT_MAX)
        return fy_fail(e, FY_ECORRUPT, "icount state: count %llu or warp %llu ns is out of range",
                       (unsigned long long)in->count, (unsigned long long)in->warp_ns);
    if (!due_ok(in->lapic_due_ns) || !due_ok(in->pit_due_ns))
        return fy_fail(e, FY_ECORRUPT, "icount state: a timer's time is out of range");
    vm->cpus[0]->insns = in->count;
    vm->chips->warp_ns = in->warp_ns;
    vm->chips->lapic_due = in->lapic_due_ns;
    vm->chips->pit_due_saved = in->pit_due_ns;
    return 0;
}

const struct fy_icount_ops soft_icount_ops = {
    .place = place,
    .stop_at = stop_at,
    .now_ns = now_ns,
    .realtime_ns = realtime_ns,
    .set_alarm = set_alarm,
    .save = save,
    .load = load,
};
