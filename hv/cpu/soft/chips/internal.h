// SPDX-License-Identifier: Apache-2.0
/* The chips' insides. Everything here is called with chips->lock held, unless it says otherwise. Times are
 * nanoseconds of the engine's clock (soft_clock_ns). */
#ifndef FERRY_SOFT_CHIPS_INTERNAL_H
#define FERRY_SOFT_CHIPS_INTERNAL_H

#include <pthread.h>

#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/vm.h"

#define NEVER UINT64_MAX
#define IOAPIC_PINS 24

/* LAPIC registers by their xAPIC offset / 16. */
enum {
    L_ID = 0x02,
    L_VERSION = 0x03,
    L_TPR = 0x08,
    L_APR = 0x09,
    L_PPR = 0x0a,
    L_EOI = 0x0b,
    L_LDR = 0x0d,
    L_DFR = 0x0e,
    L_SVR = 0x0f,
    L_ISR = 0x10,
    L_TMR = 0x18,
    L_IRR = 0x20,
    L_ESR = 0x28,
    L_CMCI = 0x2f,
    L_ICR = 0x30,
    L_ICR2 = 0x31,
    L_TIMER = 0x32,
    L_THERMAL = 0x33,
    L_PERF = 0x34,
    L_LINT0 = 0x35,
    L_LINT1 = 0x36,
    L_ERROR = 0x37,
    L_TMICT = 0x38,
    L_TMCCT = 0x39,
    L_TDCR = 0x3e,
    L_SELF = 0x3f
};

#define LVT_MASKED 0x10000u
#define APIC_GLOBAL 0x800u /* IA32_APIC_BASE */
#define APIC_X2 0x400u
#define APIC_BSP 0x100u

enum { D_FIXED, D_LOWEST, D_SMI, D_RESERVED, D_NMI, D_INIT, D_SIPI, D_EXTINT };

struct soft_lapic {
    struct soft_cpu *cpu;
    uint32_t r[64];
    uint64_t started; /* of the running count; one-shot and periodic */
    uint64_t due;     /* next expiry, or NEVER */
    bool ready;       /* shared: what soft_irq_ready answers */
};

struct pic {
    uint8_t last_irr, irr, imr, isr, priority_add, irq_base, init_state, elcr, elcr_mask;
    bool read_reg_select, poll, special_mask, auto_eoi, rotate_on_auto_eoi, special_fully_nested, init4;
};

struct pit_channel {
    uint32_t count; /* 1..65536 */
    uint16_t latched_count;
    uint8_t count_latched, status, read_state, write_state, write_latch, rw_mode, mode;
    bool status_latched, bcd, gate;
    bool null_count; /* programmed, no count yet */
    uint64_t loaded; /* when the count was loaded */
};

struct soft_chips {
    struct soft_vm *vm;
    pthread_mutex_t lock;
    struct soft_lapic lapics[FY_VCPUS_LIMIT];
    struct pic pic[2];
    bool pic_out; /* the master's output */
    struct {
        uint32_t select, id, irr;
        uint64_t redirection[IOAPIC_PINS];
    } ioapic;
    struct pit_channel pit[3];
    bool speaker_on;
    uint64_t pit_due; /* next edge of channel 0, or NEVER */
    /* The clock: engine time = base_ns + host monotonic - base_host (or, with icount, instructions). */
    uint64_t guest_offset;               /* kvmclock = engine time + this */
    uint64_t tsc_offset[FY_VCPUS_LIMIT]; /* TSC = ticks(engine time) + this; shared */
    uint64_t started_host;
    uint64_t warp_ns; /* icount: time that passed in HLT */
    /* icount: dues as they were saved, exact where the chips' registers are rounded; for soft_chips_load */
    uint64_t lapic_due, pit_due_saved;
    /* timer thread; none with icount */
    pthread_t thread;
    pthread_cond_t wake;
    bool thread_on, quit;
    uint64_t armed; /* what the thread waits for */
};

/* clock.c. No lock. */
uint64_t soft_clock_ns(const struct soft_vm *vm);
uint64_t soft_ticks(const struct soft_vm *vm, uint64_t ns);
uint64_t soft_ticks_to_ns(const struct soft_vm *vm, uint64_t ticks);

/* lapic.c */
void lapic_reset(struct soft_lapic *l, bool bsp);
void lapic_update(struct soft_lapic *l);
bool lapic_mmio(struct soft_cpu *c, unsigned offset, unsigned size, bool write, uint64_t *value);
void lapic_accept(struct soft_lapic *l, unsigned mode, uint8_t vector, bool level);
/* Deliver a message: dest as in ICR2/redirection, logical or physical. Returns how many took it. */
unsigned lapic_message(struct soft_chips *ch, struct soft_lapic *from, uint32_t dest, bool logical,
                       unsigned shorthand, unsigned mode, uint8_t vector, bool level, bool assert);
void lapic_timer_fire(struct soft_lapic *l, uint64_t now);
uint32_t lapic_current_count(const struct soft_lapic *l, uint64_t now);
void lapic_rearm(struct soft_lapic *l, uint32_t remaining);
void lapic_deadline_arm(struct soft_lapic *l);

/* ioapic.c */
void ioapic_reset(struct soft_chips *ch);
void ioapic_set(struct soft_chips *ch, unsigned pin, bool level);
void ioapic_eoi(struct soft_chips *ch, uint8_t vector);
uint32_t ioapic_read(struct soft_chips *ch, unsigned offset);
void ioapic_write(struct soft_chips *ch, unsigned offset, uint32_t v);

/* pic.c */
void pics_reset(struct soft_chips *ch);
void pics_set(struct soft_chips *ch, unsigned irq, bool level);
uint8_t pics_read(struct soft_chips *ch, uint16_t port);
void pics_write(struct soft_chips *ch, uint16_t port, uint8_t v);
int pics_ack(struct soft_chips *ch);
void pics_update(struct soft_chips *ch);

/* pit.c */
void pit_reset(struct soft_chips *ch);
uint8_t pit_read(struct soft_chips *ch, uint16_t port);
void pit_write(struct soft_chips *ch, uint16_t port, uint8_t v);
void pit_fire(struct soft_chips *ch, uint64_t now);
void pit_rearm(struct soft_chips *ch);

/* chips.c: a line of the board. */
void chips_line(struct soft_chips *ch, unsigned gsi, bool level);
/* A due time has changed: let the timer look again. */
void chips_timer_changed(struct soft_chips *ch);
/* The next due time, or NEVER. With icount also the vCPU's thread, no lock: nobody else arms. */
uint64_t chips_due(const struct soft_chips *ch);
/* Fire what is due at `now`; returns the next due time. */
uint64_t chips_fire(struct soft_chips *ch, uint64_t now);

#endif
