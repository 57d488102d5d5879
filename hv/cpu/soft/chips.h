// SPDX-License-Identifier: Apache-2.0
/* The interrupt chips and timers that KVM keeps in the kernel: LAPICs, IOAPIC, two PICs, PIT, and the guest's
 * clocks. Locked by themselves: any thread, unless said otherwise. Lock order: device locks, then the chips'
 * lock, then the vCPU's request word; no call out to a device is made with the chips' lock held. */
#ifndef FERRY_SOFT_CHIPS_H
#define FERRY_SOFT_CHIPS_H

#include "hv/base/err.h"
#include "hv/cpu/soft/cpu.h"
#include "proto/state.pb-c.h"

struct soft_chips;

struct soft_chips *soft_chips_new(struct soft_vm *vm, struct fy_err *e);
void soft_chips_free(struct soft_chips *ch);
/* PICs, I/O APIC and PIT to their power-on state. */
void soft_chips_reset(struct soft_chips *ch);

/* Accesses from vCPUs. false: not a chip's address. Ports: 20 21 a0 a1 4d0 4d1 40-43 61. MMIO: the LAPIC page
 * where this vCPU's APIC base puts it (xAPIC mode), the IOAPIC's page at 0xfec00000. That vCPU's thread. */
bool soft_chips_port(struct soft_cpu *c, uint16_t port, unsigned size, bool write, uint32_t *value);
bool soft_chips_mmio(struct soft_cpu *c, uint64_t gpa, unsigned size, bool write, uint64_t *value);
/* APIC_BASE, TSC_DEADLINE, x2APIC's 0x800..0x8ff. false: #GP. */
bool soft_lapic_msr(struct soft_cpu *c, uint32_t index, bool write, uint64_t *value);
/* CR8. */
uint64_t soft_lapic_tpr(const struct soft_cpu *c);
void soft_lapic_set_tpr(struct soft_cpu *c, uint64_t cr8);

/* Is an external interrupt (LAPIC or, through LINT0, the PIC) waiting that the priority lets through? Cheap,
 * no lock. IF and shadow are the caller's. That vCPU's thread. */
bool soft_irq_ready(const struct soft_cpu *c);
/* Take it: acknowledge and return its vector, -1 where it went away. */
int soft_irq_ack(struct soft_cpu *c);

/* A line into the chips (GSI 0..15 to PIC and IOAPIC, 16..23 IOAPIC). */
void soft_chips_irq(struct soft_chips *ch, unsigned gsi, bool level);

/* A message-signalled interrupt: address and data as in Intel SDM volume 3, 11.11. */
void soft_chips_msi(struct soft_chips *ch, uint64_t address, uint32_t data);

/* INIT and SIPI reach a vCPU as requests: cpu->requests |= SOFT_REQ_INIT or SOFT_REQ_SIPI (sipi_vector set),
 * then a kick. */

/* The guest's TSC as this vCPU reads it, and guest nanoseconds (kvmclock); both stand still while the machine
 * is paused. */
uint64_t soft_tsc(const struct soft_cpu *c);
uint64_t soft_guest_ns(const struct soft_vm *vm);
void soft_tsc_write(struct soft_cpu *c, uint64_t value);

#endif
