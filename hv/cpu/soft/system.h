// SPDX-License-Identifier: Apache-2.0
/* Segments, exceptions, interrupts, far control transfers, reset. On the vCPU's thread. Sources: Intel SDM
 * volume 3A, chapters 3, 5, 6, 8; AMD APM volume 2, chapters 4, 8, 12. */
#ifndef FERRY_SOFT_SYSTEM_H
#define FERRY_SOFT_SYSTEM_H

#include "hv/cpu/soft/exec.h"

/* Power-on state (SDM 3A, table 9-1); soft_cpu_init is the INIT state. Not the LAPIC's. */
void soft_cpu_power_on(struct soft_cpu *c);
void soft_cpu_init(struct soft_cpu *c);

/* Deliver cpu->exc (and clear it) through the IDT: contributory faults become #DF, then a triple fault, which
 * sets leave to SOFT_LEAVE_CRASH. cpu->rip is the instruction that faulted. */
void soft_deliver_exception(struct soft_cpu *c);
/* Deliver an external interrupt, a software interrupt (INT n at rip, next_rip pushed) or an NMI. A fault on
 * the way is delivered as an exception. */
void soft_deliver_interrupt(struct soft_cpu *c, unsigned vector);
void soft_deliver_nmi(struct soft_cpu *c);
/* A triple fault or another end: write the report (registers, bytes at rip), set SOFT_LEAVE_CRASH. */
void soft_crash(struct soft_cpu *c, const char *why);

/* Load a segment register by selector with all checks of MOV Sreg / POP Sreg / LDS...; false: exception
 * recorded. */
bool soft_load_sreg(struct soft_cpu *c, enum soft_sreg seg, uint16_t sel);

/* RDMSR, WRMSR: false: #GP(0) recorded. Also used by save and load (host = true: no guest-side side effects
 * or read-only checks). The TSC and the LAPIC's MSRs are the chips' (chips.h). */
bool soft_msr_read(struct soft_cpu *c, uint32_t index, uint64_t *value, bool host);
bool soft_msr_write(struct soft_cpu *c, uint32_t index, uint64_t value, bool host);

#endif
