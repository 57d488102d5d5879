// SPDX-License-Identifier: Apache-2.0
/* Local APICs, xAPIC and x2APIC (Intel SDM volume 3A, chapter 10). The timer's input clock is 1 GHz, as
 * KVM's. */
#include <string.h>

#include "hv/cpu/soft/chips/internal.h"

#define VERSION 0x50014u /* six LVT entries, no directed EOI: KVM's */
#define SVR_ENABLED 0x100u
#define LVT_PENDING 0x1000u
#define TIMER_MODE(lvt) ((lvt) >> 17 & 3)
enum { ONE_SHOT, PERIODIC, DEADLINE };
/* No guest gets interrupts faster than this: a period of nanoseconds would be a host's busy loop. */
#define SHORTEST_PERIOD_NS 20000u

static bool x2(const struct soft_lapic *l)
{
    return (l->cpu->apic_base & (APIC_GLOBAL | APIC_X2)) == (APIC_GLOBAL | APIC_X2);
}

static bool hw_on(const struct soft_lapic *l)
{
    return l->cpu->apic_base & APIC_GLOBAL;
}

static bool sw_on(const struct soft_lapic *l)
{
    return hw_on(l) && l->r[L_SVR] & SVR_ENABLED;
}

static uint32_t x2_ldr(uint32_t id)
{
    return id >> 4 << 16 | 1u << (id & 15);
}

/* --- the three 256-bit vectors --- */

static bool vec_test(const struct soft_lapic *l, unsigned base, unsigned v)
{
    return l->r[base + v / 32] >> (v % 32) & 1;
}

static void vec_put(struct soft_lapic *l, unsigned base, unsigned v, bool on)
{
    uint32_t bit = 1u << (v % 32);
    l->r[base + v / 32] = on ? l->r[base + v / 32] | bit : l->r[base + v / 32] & ~bit;
}

static int vec_highest(const struct soft_lapic *l, unsigned base)
{
    for (unsigned i = 8; i-- > 0;)
        if (l->r[base + i])
            return (int)(i * 32 + 31 - (unsigned)__builtin_clz(l->r[base + i]));
    return -1;
}

static void update_ppr(struct soft_lapic *l)
{
    int isr = vec_highest(l, L_ISR);
    unsigned isrv = isr < 0 ? 0 : (unsigned)isr & 0xf0;
    l->r[L_PPR] = (l->r[L_TPR] & 0xf0) >= isrv ? l->r[L_TPR] & 0xff : isrv;
}

/* The PIC's output reaches this processor. */
static bool takes_extint(const struct soft_lapic *l)
{
    if (!hw_on(l))
        return l->cpu->index == 0;
    return !(l->r[L_LINT0] & LVT_MASKED) && (l->r[L_LINT0] >> 8 & 7) == D_EXTINT;
}

static int deliverable(const struct soft_lapic *l)
{
    if (!hw_on(l))
        return -1;
    int irr = vec_highest(l, L_IRR);
    return irr >= 0 && ((unsigned)irr & 0xf0) > (l->r[L_PPR] & 0xf0) ? irr : -1;
}

void lapic_update(struct soft_lapic *l)
{
    struct soft_chips *ch = l->cpu->vm->chips;
    update_ppr(l);
    bool ready = deliverable(l) >= 0 || (ch && ch->pic_out && takes_extint(l));
    bool was = __atomic_exchange_n(&l->ready, ready, __ATOMIC_SEQ_CST);
    if (ready && !was)
        soft_request(l->cpu, SOFT_REQ_IRQ);
}

/* --- timer --- */

static uint32_t divisor(const struct soft_lapic *l)
{
    unsigned v = (l->r[L_TDCR] & 3) | (l->r[L_TDCR] >> 1 & 4);
    return v == 7 ? 1 : 2u << v;
}

uint32_t lapic_current_count(const struct soft_lapic *l, uint64_t now)
{
    if (TIMER_MODE(l->r[L_TIMER]) == DEADLINE || !l->r[L_TMICT] || l->due == NEVER)
        return 0;
    /* Rounded up: what is saved as 0 has expired. */
    return now >= l->due ? 0 : (uint32_t)((l->due - now + divisor(l) - 1) / divisor(l));
}

void lapic_rearm(struct soft_lapic *l, uint32_t remaining)
{
    l->started = soft_clock_ns(l->cpu->vm);
    l->due = remaining ? l->started + (uint64_t)remaining * divisor(l) : NEVER;
    chips_timer_changed(l->cpu->vm->chips);
}

void lapic_deadline_arm(struct soft_lapic *l)
{
    uint64_t want = l->cpu->tsc_deadline;
    if (TIMER_MODE(l->r[L_TIMER]) != DEADLINE)
        return;
    uint64_t tsc = soft_tsc(l->cpu);
    uint64_t now = soft_clock_ns(l->cpu->vm);
    if (!want)
        l->due = NEVER;
    else
        l->due = want > tsc ? now + soft_ticks_to_ns(l->cpu->vm, want - tsc) + 1 : now;
    chips_timer_changed(l->cpu->vm->chips);
}

static void local_interrupt(struct soft_lapic *l, unsigned lvt)
{
    uint32_t v = l->r[lvt];
    if (!(v & LVT_MASKED) && sw_on(l))
        lapic_accept(l, v >> 8 & 7, (uint8_t)v, false);
}

void lapic_timer_fire(struct soft_lapic *l, uint64_t now)
{
    if (now < l->due)
        return;
    unsigned mode = TIMER_MODE(l->r[L_TIMER]);
    if (mode == PERIODIC && l->r[L_TMICT]) {
        uint64_t period = (uint64_t)l->r[L_TMICT] * divisor(l);
        period = period < SHORTEST_PERIOD_NS ? SHORTEST_PERIOD_NS : period;
        l->due += period;
        if (l->due <= now) /* late by whole periods: they are lost, the phase is kept */
            l->due = now + period - (now - l->due) % period;
    } else {
        l->due = NEVER;
        if (mode == DEADLINE)
            l->cpu->tsc_deadline = 0;
    }
    local_interrupt(l, L_TIMER);
}

/* --- accepting and sending --- */

void lapic_accept(struct soft_lapic *l, unsigned mode, uint8_t vector, bool level)
{
    switch (mode) {
    case D_FIXED:
    case D_LOWEST:
        if (!sw_on(l) || vector < 16)
            break;
        vec_put(l, L_TMR, vector, level);
        vec_put(l, L_IRR, vector, true);
        lapic_update(l);
        break;
    case D_NMI:
        soft_request(l->cpu, SOFT_REQ_NMI);
        break;
    case D_INIT:
        soft_request(l->cpu, SOFT_REQ_INIT);
        break;
    case D_SIPI:
        __atomic_store_n(&l->cpu->sipi_vector, vector, __ATOMIC_SEQ_CST);
        soft_request(l->cpu, SOFT_REQ_SIPI);
        break;
    default:
        break;
    }
}

static uint32_t own_id(const struct soft_lapic *l)
{
    return l->r[L_ID] >> 24;
}

static bool matches(const struct soft_lapic *l, uint32_t dest, bool logical, bool wide)
{
    if (!hw_on(l))
        return false;
    if (dest == (wide ? 0xffffffffu : 0xffu))
        return true;
    if (!logical)
        return dest == own_id(l);
    if (x2(l)) {
        uint32_t ldr = x2_ldr(own_id(l));
        return dest >> 16 == ldr >> 16 && dest & ldr & 0xffff;
    }
    uint32_t ldr = l->r[L_LDR] >> 24;
    if (l->r[L_DFR] >> 28 == 0xf)
        return ldr & dest;
    return ldr >> 4 == (dest >> 4 & 15) && ldr & dest & 15;
}

unsigned lapic_message(struct soft_chips *ch, struct soft_lapic *from, uint32_t dest, bool logical,
                       unsigned shorthand, unsigned mode, uint8_t vector, bool level, bool assert)
{
    if (mode == D_INIT && level && !assert)
        return 0; /* the INIT level de-assert of old: nothing on these processors */
    unsigned took = 0;
    struct soft_lapic *lowest = NULL;
    bool wide = from && x2(from);
    for (unsigned i = 0; i < ch->vm->vcpus; i++) {
        struct soft_lapic *l = &ch->lapics[i];
        bool hit = shorthand == 0   ? matches(l, dest, logical, wide)
                   : shorthand == 1 ? l == from
                   : shorthand == 2 ? true
                                    : l != from;
        if (!hit)
            continue;
        took++;
        if (mode != D_LOWEST) {
            lapic_accept(l, mode, vector, level && !from);
            continue;
        }
        if (sw_on(l) && (!lowest || l->r[L_PPR] < lowest->r[L_PPR]))
            lowest = l;
    }
    if (lowest)
        lapic_accept(lowest, D_FIXED, vector, level && !from);
    return took;
}

static void send_ipi(struct soft_lapic *l, uint32_t low, uint32_t dest)
{
    lapic_message(l->cpu->vm->chips, l, dest, low >> 11 & 1, low >> 18 & 3, low >> 8 & 7, (uint8_t)low,
                  low >> 15 & 1, low >> 14 & 1);
}

static void end_of_interrupt(struct soft_lapic *l)
{
    int v = vec_highest(l, L_ISR);
    if (v < 0)
        return;
    vec_put(l, L_ISR, (unsigned)v, false);
    if (vec_test(l, L_TMR, (unsigned)v))
        ioapic_eoi(l->cpu->vm->chips, (uint8_t)v);
    lapic_update(l);
}

/* --- registers --- */

/* A timer that has run out before this access has done so under what was set then: who reads a count of 0
 * finds its request made, and a mask taken away later does not bring it back. */
static void settle(struct soft_lapic *l)
{
    if (l->due != NEVER)
        lapic_timer_fire(l, soft_clock_ns(l->cpu->vm));
}

static uint32_t reg_read(struct soft_lapic *l, unsigned reg)
{
    switch (reg) {
    case L_TMCCT:
        settle(l);
        return lapic_current_count(l, soft_clock_ns(l->cpu->vm));
    case L_EOI:
        return 0;
    default:
        return reg < 64 ? l->r[reg] : 0;
    }
}

static void write_lvt(struct soft_lapic *l, unsigned reg, uint32_t v)
{
    static const uint32_t allowed[] = {[0] = 0x710ff,
                                       [L_THERMAL - L_TIMER] = 0x117ff,
                                       [L_PERF - L_TIMER] = 0x117ff,
                                       [L_LINT0 - L_TIMER] = 0x1f7ff,
                                       [L_LINT1 - L_TIMER] = 0x1f7ff,
                                       [L_ERROR - L_TIMER] = 0x110ff};
    uint32_t was = l->r[reg];
    v &= allowed[reg - L_TIMER] & ~LVT_PENDING;
    if (reg == L_TIMER)
        v &= 0x700ff; /* no delivery mode, status is read-only */
    if (!(l->r[L_SVR] & SVR_ENABLED))
        v |= LVT_MASKED;
    l->r[reg] = v;
    if (reg == L_TIMER && TIMER_MODE(was) != TIMER_MODE(v)) {
        if (TIMER_MODE(was) == DEADLINE || TIMER_MODE(v) == DEADLINE) {
            l->r[L_TMICT] = 0;
            l->cpu->tsc_deadline = 0;
            l->due = NEVER;
        }
    }
    lapic_update(l);
}

static void write_svr(struct soft_lapic *l, uint32_t v)
{
    l->r[L_SVR] = v & 0x3ff;
    if (!(v & SVR_ENABLED))
        for (unsigned i = L_TIMER; i <= L_ERROR; i++)
            l->r[i] |= LVT_MASKED;
    lapic_update(l);
}

static void reg_write(struct soft_lapic *l, unsigned reg, uint32_t v)
{
    switch (reg) {
    case L_ID:
        if (!x2(l))
            l->r[L_ID] = v & 0xff000000u;
        break;
    case L_TPR:
        l->r[L_TPR] = v & 0xff;
        lapic_update(l);
        break;
    case L_EOI:
        end_of_interrupt(l);
        break;
    case L_LDR:
        l->r[L_LDR] = v & 0xff000000u;
        break;
    case L_DFR:
        l->r[L_DFR] = v | 0x0fffffffu;
        break;
    case L_SVR:
        write_svr(l, v);
        break;
    case L_ESR:
        l->r[L_ESR] = 0;
        break;
    case L_ICR:
        l->r[L_ICR] = v & ~0x1000u; /* sent at once */
        send_ipi(l, l->r[L_ICR], x2(l) ? l->r[L_ICR2] : l->r[L_ICR2] >> 24);
        break;
    case L_ICR2:
        l->r[L_ICR2] = x2(l) ? v : v & 0xff000000u;
        break;
    case L_TIMER:
        settle(l);
        write_lvt(l, reg, v);
        break;
    case L_THERMAL:
    case L_PERF:
    case L_LINT0:
    case L_LINT1:
    case L_ERROR:
        write_lvt(l, reg, v);
        break;
    case L_TMICT:
        if (TIMER_MODE(l->r[L_TIMER]) == DEADLINE)
            break;
        settle(l);
        l->r[L_TMICT] = v;
        lapic_rearm(l, v);
        break;
    case L_TDCR: {
        uint32_t left = lapic_current_count(l, soft_clock_ns(l->cpu->vm));
        l->r[L_TDCR] = v & 0xb;
        if (l->due != NEVER && TIMER_MODE(l->r[L_TIMER]) != DEADLINE)
            lapic_rearm(l, left);
        break;
    }
    default:
        break;
    }
}

void lapic_reset(struct soft_lapic *l, bool bsp)
{
    bool keep_id = x2(l);
    uint32_t id = l->r[L_ID];
    memset(l->r, 0, sizeof l->r);
    l->r[L_ID] = keep_id ? id : l->cpu->index << 24;
    l->r[L_VERSION] = VERSION;
    l->r[L_DFR] = 0xffffffffu;
    l->r[L_SVR] = 0xff;
    for (unsigned i = L_TIMER; i <= L_ERROR; i++)
        l->r[i] = LVT_MASKED;
    if (bsp) /* as firmware leaves it: the PIC's output passes */
        l->r[L_LINT0] = D_EXTINT << 8;
    l->due = NEVER;
    l->cpu->tsc_deadline = 0;
    lapic_update(l);
}

/* --- from vCPUs --- */

bool soft_irq_ready(const struct soft_cpu *c)
{
    return __atomic_load_n(&c->lapic->ready, __ATOMIC_SEQ_CST);
}

int soft_irq_ack(struct soft_cpu *c)
{
    struct soft_chips *ch = c->vm->chips;
    struct soft_lapic *l = c->lapic;
    int v = -1;
    pthread_mutex_lock(&ch->lock);
    if (ch->pic_out && takes_extint(l)) {
        v = pics_ack(ch);
    } else {
        v = deliverable(l);
        if (v >= 0) {
            vec_put(l, L_IRR, (unsigned)v, false);
            vec_put(l, L_ISR, (unsigned)v, true);
        }
    }
    lapic_update(l);
    pthread_mutex_unlock(&ch->lock);
    return v;
}

uint64_t soft_lapic_tpr(const struct soft_cpu *c)
{
    return c->lapic->r[L_TPR] >> 4 & 15;
}

void soft_lapic_set_tpr(struct soft_cpu *c, uint64_t cr8)
{
    struct soft_chips *ch = c->vm->chips;
    pthread_mutex_lock(&ch->lock);
    c->lapic->r[L_TPR] = (uint32_t)(cr8 & 15) << 4;
    lapic_update(c->lapic);
    pthread_mutex_unlock(&ch->lock);
}

bool lapic_mmio(struct soft_cpu *c, unsigned offset, unsigned size, bool write, uint64_t *value)
{
    struct soft_lapic *l = c->lapic;
    unsigned reg = offset >> 4;
    if (reg >= 64)
        return true;
    if (!write)
        *value = reg_read(l, reg) >> (8 * (offset & 3));
    else if (size == 4 && !(offset & 15))
        reg_write(l, reg, (uint32_t)*value);
    return true;
}

static bool x2_reg_ok(unsigned reg, bool write)
{
    if (reg >= L_ISR && reg < L_ESR)
        return !write;
    switch (reg) {
    case L_ID:
    case L_VERSION:
    case L_PPR:
    case L_LDR:
    case L_TMCCT:
        return !write;
    case L_EOI:
    case L_SELF:
        return write;
    case L_TPR:
    case L_SVR:
    case L_ESR:
    case L_ICR:
    case L_TIMER:
    case L_THERMAL:
    case L_PERF:
    case L_LINT0:
    case L_LINT1:
    case L_ERROR:
    case L_TMICT:
    case L_TDCR:
        return true;
    default:
        return false;
    }
}

static bool x2_msr(struct soft_lapic *l, unsigned reg, bool write, uint64_t *v)
{
    if (!x2(l) || !x2_reg_ok(reg, write))
        return false;
    if (!write) {
        *v = reg == L_ID    ? own_id(l)
             : reg == L_LDR ? x2_ldr(own_id(l))
             : reg == L_ICR ? l->r[L_ICR] | (uint64_t)l->r[L_ICR2] << 32
                            : reg_read(l, reg);
        return true;
    }
    if (reg != L_ICR && *v >> 32)
        return false;
    if ((reg == L_EOI || reg == L_ESR) && *v)
        return false;
    if (reg == L_SELF) {
        lapic_accept(l, D_FIXED, (uint8_t)*v, false);
        return true;
    }
    if (reg == L_ICR)
        l->r[L_ICR2] = (uint32_t)(*v >> 32);
    reg_write(l, reg, (uint32_t)*v);
    return true;
}

static bool write_base(struct soft_lapic *l, uint64_t v)
{
    uint64_t was = l->cpu->apic_base;
    unsigned from = was >> 10 & 3, to = v >> 10 & 3;
    if (v & ~(0xffffff000ull | APIC_GLOBAL | APIC_X2 | APIC_BSP) || to == 1)
        return false;
    if ((from == 3 && to == 2) || (from == 0 && to == 3)) /* SDM 3A, 10.12.5 */
        return false;
    l->cpu->apic_base = (v & ~(uint64_t)APIC_BSP) | (was & APIC_BSP);
    if (!to && from)
        lapic_reset(l, false);
    lapic_update(l);
    return true;
}

bool soft_lapic_msr(struct soft_cpu *c, uint32_t index, bool write, uint64_t *value)
{
    struct soft_chips *ch = c->vm->chips;
    struct soft_lapic *l = c->lapic;
    bool ok = true;
    pthread_mutex_lock(&ch->lock);
    if (index == 0x1b) {
        if (write)
            ok = write_base(l, *value);
        else
            *value = c->apic_base;
    } else if (index == 0x6e0) {
        if (!write) {
            *value = c->tsc_deadline;
        } else if (TIMER_MODE(l->r[L_TIMER]) == DEADLINE) {
            c->tsc_deadline = *value;
            lapic_deadline_arm(l);
        }
    } else {
        ok = index >= 0x800 && index < 0x840 && x2_msr(l, index - 0x800, write, value);
    }
    pthread_mutex_unlock(&ch->lock);
    return ok;
}
