// SPDX-License-Identifier: Apache-2.0
/* The chips together: dispatch, the board's lines, the timer thread. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "hv/base/clock.h"
#include "hv/cpu/soft/chips/internal.h"
#include "hv/sandbox/sandbox.h"

#define IOAPIC_BASE 0xfec00000ull

void chips_line(struct soft_chips *ch, unsigned gsi, bool level)
{
    if (gsi < 16)
        pics_set(ch, gsi, level);
    if (gsi < IOAPIC_PINS)
        ioapic_set(ch, gsi, level);
}

void soft_chips_irq(struct soft_chips *ch, unsigned gsi, bool level)
{
    pthread_mutex_lock(&ch->lock);
    chips_line(ch, gsi, level);
    pthread_mutex_unlock(&ch->lock);
}

void soft_chips_msi(struct soft_chips *ch, uint64_t address, uint32_t data)
{
    if ((address & ~0xfffffull) != 0xfee00000u)
        return; /* no CPU listens there */
    pthread_mutex_lock(&ch->lock);
    lapic_message(ch, NULL, address >> 12 & 0xff, address >> 2 & 1, 0, data >> 8 & 7, (uint8_t)data, false,
                  true);
    pthread_mutex_unlock(&ch->lock);
}

/* --- timers --- */

uint64_t chips_due(const struct soft_chips *ch)
{
    uint64_t due = ch->pit_due;
    for (unsigned i = 0; i < ch->vm->vcpus; i++)
        due = ch->lapics[i].due < due ? ch->lapics[i].due : due;
    return due;
}

uint64_t chips_fire(struct soft_chips *ch, uint64_t now)
{
    for (unsigned i = 0; i < ch->vm->vcpus; i++)
        lapic_timer_fire(&ch->lapics[i], now);
    pit_fire(ch, now);
    return chips_due(ch);
}

void chips_timer_changed(struct soft_chips *ch)
{
    /* Back to the loop after this instruction: it may be due before the count to which the vCPU runs. */
    if (ch->vm->icount)
        __atomic_store_n(&ch->vm->cpus[0]->limit, 0, __ATOMIC_SEQ_CST);
    if (ch->thread_on && chips_due(ch) < ch->armed)
        pthread_cond_signal(&ch->wake);
}

static void *timer_main(void *arg)
{
    struct soft_chips *ch = arg;
    /* by itself: for another thread this would go through /proc */
    pthread_setname_np(pthread_self(), "timers");
    fy_sandbox_thread(FY_SANDBOX_VCPU);
    pthread_mutex_lock(&ch->lock);
    while (!ch->quit) {
        uint64_t due = chips_fire(ch, soft_clock_ns(ch->vm));
        ch->armed = due;
        if (due == NEVER) {
            pthread_cond_wait(&ch->wake, &ch->lock);
            continue;
        }
        uint64_t host = due + ch->started_host;
        struct timespec ts = {.tv_sec = (time_t)(host / 1000000000u), .tv_nsec = (long)(host % 1000000000u)};
        pthread_cond_timedwait(&ch->wake, &ch->lock, &ts);
    }
    pthread_mutex_unlock(&ch->lock);
    return NULL;
}

/* --- making --- */

static void reset_all(struct soft_chips *ch)
{
    for (unsigned i = 0; i < ch->vm->vcpus; i++) {
        ch->vm->cpus[i]->apic_base = 0xfee00000u | APIC_GLOBAL | (i == 0 ? APIC_BSP : 0);
        lapic_reset(&ch->lapics[i], i == 0);
    }
    ioapic_reset(ch);
    pics_reset(ch);
    pit_reset(ch);
}

void soft_chips_reset(struct soft_chips *ch)
{
    pthread_mutex_lock(&ch->lock);
    ioapic_reset(ch);
    pics_reset(ch);
    pit_reset(ch);
    pthread_mutex_unlock(&ch->lock);
}

struct soft_chips *soft_chips_new(struct soft_vm *vm, struct fy_err *e)
{
    struct soft_chips *ch = calloc(1, sizeof *ch);
    if (!ch) {
        fy_fail(e, FY_ERESOURCE, "no memory for the interrupt chips");
        return NULL;
    }
    ch->vm = vm;
    ch->started_host = fy_now_ns();
    ch->armed = NEVER;
    pthread_mutex_init(&ch->lock, NULL);
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_cond_init(&ch->wake, &attr);
    pthread_condattr_destroy(&attr);
    for (unsigned i = 0; i < vm->vcpus; i++) {
        ch->lapics[i].cpu = vm->cpus[i];
        vm->cpus[i]->lapic = &ch->lapics[i];
    }
    vm->chips = ch;
    reset_all(ch);
    if (!vm->icount) {
        int err = pthread_create(&ch->thread, NULL, timer_main, ch);
        if (err) {
            vm->chips = NULL;
            soft_chips_free(ch);
            fy_fail_errno(e, FY_ERESOURCE, err, "cannot start the timer thread");
            return NULL;
        }
        ch->thread_on = true;
    }
    return ch;
}

void soft_chips_free(struct soft_chips *ch)
{
    if (!ch)
        return;
    if (ch->thread_on) {
        pthread_mutex_lock(&ch->lock);
        ch->quit = true;
        pthread_cond_signal(&ch->wake);
        pthread_mutex_unlock(&ch->lock);
        pthread_join(ch->thread, NULL);
    }
    pthread_cond_destroy(&ch->wake);
    pthread_mutex_destroy(&ch->lock);
    free(ch);
}

/* --- accesses from vCPUs --- */

bool soft_chips_port(struct soft_cpu *c, uint16_t port, unsigned size, bool write, uint32_t *value)
{
    struct soft_chips *ch = c->vm->chips;
    bool pic = (port & ~0x81) == 0x20 || port == 0x4d0 || port == 0x4d1;
    bool pit = (port & ~3) == 0x40 || port == 0x61;
    if (!pic && !pit)
        return false;
    pthread_mutex_lock(&ch->lock);
    /* These are byte-wide; wider accesses reach the ports that follow, as on the bus. */
    for (unsigned i = 0; i < size; i++) {
        uint16_t at = (uint16_t)(port + i);
        uint8_t v = (uint8_t)(*value >> (8 * i));
        bool p = (at & ~0x81) == 0x20 || at == 0x4d0 || at == 0x4d1;
        bool t = (at & ~3) == 0x40 || at == 0x61;
        if (write && p)
            pics_write(ch, at, v);
        else if (write && t)
            pit_write(ch, at, v);
        else if (!write)
            v = p ? pics_read(ch, at) : t ? pit_read(ch, at) : 0xff;
        if (!write)
            *value = (*value & ~(0xffu << (8 * i))) | (uint32_t)v << (8 * i);
    }
    pthread_mutex_unlock(&ch->lock);
    return true;
}

bool soft_chips_mmio(struct soft_cpu *c, uint64_t gpa, unsigned size, bool write, uint64_t *value)
{
    struct soft_chips *ch = c->vm->chips;
    bool io = gpa >> 12 == IOAPIC_BASE >> 12;
    bool local = (c->apic_base & (APIC_GLOBAL | APIC_X2)) == APIC_GLOBAL &&
                 gpa >> 12 == (c->apic_base & 0xffffff000ull) >> 12;
    if (!io && !local)
        return false;
    pthread_mutex_lock(&ch->lock);
    if (!write)
        *value = 0;
    if (local)
        lapic_mmio(c, gpa & 0xfff, size, write, value);
    else if (write)
        ioapic_write(ch, gpa & 0xff, (uint32_t)*value);
    else
        *value = ioapic_read(ch, gpa & 0xff);
    pthread_mutex_unlock(&ch->lock);
    return true;
}
