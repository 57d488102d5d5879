// SPDX-License-Identifier: Apache-2.0
/* The vCPU's thread between blocks: requests, interrupts, debug traps, waiting. Priorities: Intel SDM volume
 * 3A, table 6-2. */
#include "hv/base/clock.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/system.h"
#include "hv/cpu/soft/vm.h"

#define IDLE_WINDOW_NS 5000000000ull
#define IDLE_INSNS 25000000u /* in a window: one hundredth of what a core does */

enum { RUNNABLE, WAITS_INIT, WAITS_SIPI, HALTED };

#define DR6_BS 0x4000u

static unsigned run_state(const struct soft_cpu *c)
{
    return __atomic_load_n(&c->run_state, __ATOMIC_RELAXED);
}

static void set_run_state(struct soft_cpu *c, unsigned v)
{
    __atomic_store_n(&c->run_state, (uint8_t)v, __ATOMIC_RELAXED);
}

static void arm_limit(struct soft_cpu *c)
{
    uint64_t want = c->run_limit < SOFT_LIMIT_MAX ? c->run_limit : SOFT_LIMIT_MAX;
    if (__atomic_load_n(&c->limit, __ATOMIC_RELAXED) != want)
        __atomic_store_n(&c->limit, want, __ATOMIC_SEQ_CST);
}

static void wait_for_request(struct soft_cpu *c)
{
    struct soft_vm *vm = c->vm;
    soft_leave_guest(c);
    pthread_mutex_lock(&vm->halt_lock);
    __atomic_store_n(&c->waiting, 1, __ATOMIC_SEQ_CST);
    while (!__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST))
        pthread_cond_wait(&vm->halt_wake[c->index], &vm->halt_lock);
    __atomic_store_n(&c->waiting, 0, __ATOMIC_SEQ_CST);
    pthread_mutex_unlock(&vm->halt_lock);
    soft_enter_guest(c);
}

static void init(struct soft_cpu *c)
{
    soft_cpu_init(c);
    soft_tlb_flush(c);
    soft_mode_changed(c);
    c->leave = SOFT_LEAVE_NONE;
    c->shadow = 0;
    c->retry = false;
    c->exc = (struct soft_exception){0};
    set_run_state(c, c->apic_base & 0x100 ? RUNNABLE : WAITS_SIPI);
}

static void sipi(struct soft_cpu *c)
{
    if (run_state(c) != WAITS_SIPI)
        return;
    struct soft_segment *cs = &c->seg[SOFT_CS];
    uint8_t vector = __atomic_load_n(&c->sipi_vector, __ATOMIC_SEQ_CST);
    cs->sel = (uint16_t)(vector << 8);
    cs->base = (uint64_t)vector << 12;
    c->rip = 0;
    soft_mode_changed(c);
    set_run_state(c, RUNNABLE);
}

/* The requests that are the loop's. true: leave. */
static bool serve(struct soft_cpu *c)
{
    soft_take_requests(c, true);
    uint32_t mine = SOFT_REQ_INIT | SOFT_REQ_SIPI | SOFT_REQ_NMI | SOFT_REQ_IRQ;
    uint32_t r = __atomic_load_n(&c->requests, __ATOMIC_SEQ_CST);
    if (r & mine) {
        r = __atomic_fetch_and(&c->requests, ~mine, __ATOMIC_SEQ_CST);
        if (r & SOFT_REQ_INIT)
            init(c);
        if (r & SOFT_REQ_SIPI)
            sipi(c);
        if (r & SOFT_REQ_NMI)
            __atomic_store_n(&c->nmi_pending, true, __ATOMIC_RELAXED);
    }
    return r & SOFT_REQ_KICK;
}

/* An event whose delivery the vCPU had begun where it came from. */
static void deliver_injected(struct soft_cpu *c)
{
    c->injected = false;
    switch (c->injected_kind) {
    case 0:
        soft_exc(c, c->injected_vector);
        c->exc.has_error = c->injected_has_error;
        c->exc.error = c->injected_error;
        c->exc.cr2 = c->cr2;
        break;
    case 3:
        soft_deliver_nmi(c);
        break;
    default:
        soft_deliver_interrupt(c, c->injected_vector);
    }
}

static bool nmi_ready(const struct soft_cpu *c)
{
    return __atomic_load_n(&c->nmi_pending, __ATOMIC_RELAXED) && !c->nmi_masked;
}

static bool irq_ready(const struct soft_cpu *c)
{
    return (c->eflags & SOFT_EFL_IF) && soft_irq_ready(c);
}

/* Deliver one event that may be delivered now. false: there is none. */
static bool deliver(struct soft_cpu *c)
{
    if (c->exc.pending) {
        soft_deliver_exception(c);
        return true;
    }
    if (c->injected) {
        deliver_injected(c);
        return true;
    }
    unsigned state = run_state(c);
    if (c->shadow || c->retry || (state != RUNNABLE && state != HALTED))
        return false;
    if (nmi_ready(c)) {
        __atomic_store_n(&c->nmi_pending, false, __ATOMIC_RELAXED);
        set_run_state(c, RUNNABLE);
        soft_deliver_nmi(c);
        return true;
    }
    if (!irq_ready(c))
        return false;
    int vector = soft_irq_ack(c);
    if (vector < 0)
        return false;
    set_run_state(c, RUNNABLE);
    soft_deliver_interrupt(c, (unsigned)vector);
    return true;
}

/* At a halt: has the vCPU done next to nothing for a while? Its decoded code is then memory that the host
 * could use. */
static void trim_when_idle(struct soft_cpu *c)
{
    uint64_t now = fy_now_ns();
    if (now - c->idle_since < IDLE_WINDOW_NS)
        return;
    if (c->insns - c->idle_insns < IDLE_INSNS)
        soft_cache_trim(c);
    c->idle_since = now;
    c->idle_insns = c->insns;
}

/* Everything that comes before the next instruction. false: the loop ends with *end. */
static bool events(struct soft_cpu *c, enum fy_vcpu_end *end)
{
    *end = FY_VCPU_KICKED;
    for (;;) {
        if (SOFT_UNLIKELY(c->vm->icount))
            soft_icount_turn(c);
        arm_limit(c);
        if (c->mode_dirty)
            soft_mode_changed(c);
        if (c->leave == SOFT_LEAVE_HALT) {
            c->leave = SOFT_LEAVE_NONE;
            set_run_state(c, HALTED);
        }
        if (c->leave == SOFT_LEAVE_CRASH) {
            *end = FY_VCPU_CRASHED;
            return false;
        }
        if (c->exc.pending) {
            deliver(c);
            continue;
        }
        if (__atomic_load_n(&c->requests, __ATOMIC_SEQ_CST) && serve(c))
            return false;
        if (SOFT_UNLIKELY(c->vm->icount) && c->insns >= c->vm->stop_at) {
            *end = FY_VCPU_STOPPED;
            return false;
        }
        if (deliver(c))
            continue;
        if (run_state(c) != RUNNABLE) {
            if (!c->vm->icount)
                trim_when_idle(c);
            if (!c->vm->icount || !soft_icount_idle(c))
                wait_for_request(c);
            continue;
        }
        if (c->insns < c->run_limit)
            return true;
        if (!c->vm->icount)
            return false;
    }
}

static void execute(struct soft_cpu *c, struct soft_block *b)
{
    const struct soft_insn *in = b->code;
    c->block = b;
    c->gpr[SOFT_GPR_BLOCK] = c->rip;
    soft_bases_changed(c);
    c->insns += b->count;
#ifdef SOFT_THREADED
    in->fn(c, in);
#else
    while (in)
        in = in->fn(c, in);
#endif
    c->block = &soft_unlinked;
}

/* An instruction breakpoint at rip? Then #DB is recorded. */
static bool breakpoint(struct soft_cpu *c)
{
    uint64_t lin = c->mode == SOFT_64 ? c->rip : (uint32_t)(c->seg[SOFT_CS].base + c->rip);
    unsigned hit = 0;
    for (unsigned i = 0; i < 4; i++)
        if ((c->breaks >> i & 1) && c->dr[i] == lin)
            hit |= 1u << i;
    if (!hit || (c->eflags & SOFT_EFL_RF))
        return false;
    soft_exc(c, SOFT_DB);
    c->exc.dr6 = hit;
    return true;
}

static bool named(const struct soft_insn *in, const char *name)
{
    return !strcmp(soft_rows[in->row].name, name);
}

/* One instruction, and the traps after it. */
static void step(struct soft_cpu *c)
{
    if (c->breaks && breakpoint(c))
        return;
    bool trace = c->eflags & SOFT_EFL_TF;
    c->eflags &= ~SOFT_EFL_RF;
    c->dr_hit = 0;
    struct soft_block *b = soft_single(c, c->rip);
    if (!b)
        return;
    c->shadow = 0;
    c->retry = false;
    /* Nobody enters another block from here. A kick's 0 may get lost; its request does not. */
    __atomic_store_n(&c->limit, c->insns, __ATOMIC_SEQ_CST);
    execute(c, b);
    if (c->exc.pending || c->leave == SOFT_LEAVE_CRASH)
        return;
    /* What SYSCALL's mask has cleared is gone at once; POPF's and IRET's change counts from the next on. */
    if (trace && !(c->eflags & SOFT_EFL_TF) &&
        (named(b->code, "syscall") || named(b->code, "int") || named(b->code, "int3") ||
         named(b->code, "into") || named(b->code, "int1")))
        trace = false;
    if (c->shadow == 2 || !(trace || c->dr_hit))
        return;
    soft_exc(c, SOFT_DB);
    c->exc.dr6 = (trace ? DR6_BS : 0) | c->dr_hit;
}

static bool alone(const struct soft_cpu *c)
{
    if (c->retry || c->breaks || c->watch || (c->eflags & SOFT_EFL_TF))
        return true;
    return c->shadow && (nmi_ready(c) || irq_ready(c));
}

static void run(struct soft_cpu *c)
{
    if (SOFT_UNLIKELY(alone(c))) {
        step(c);
        return;
    }
    struct soft_block *b = soft_find(c, c->rip);
    if (SOFT_UNLIKELY(!b || c->insns + b->count > c->run_limit)) {
        if (!c->exc.pending)
            step(c);
        return;
    }
    c->shadow = 0;
    c->eflags &= ~SOFT_EFL_RF;
    execute(c, b);
}

enum fy_vcpu_end soft_loop(struct soft_cpu *c)
{
    enum fy_vcpu_end end;
    c->block = &soft_unlinked;
    soft_enter_guest(c);
    while (events(c, &end))
        run(c);
    soft_leave_guest(c);
    return end;
}
