// SPDX-License-Identifier: Apache-2.0
/* Saving and loading the software machine, for engine.c: the contracts are those of struct fy_engine_ops. */
#ifndef FERRY_SOFT_STATE_H
#define FERRY_SOFT_STATE_H

#include "hv/cpu/cpu.h"
#include "hv/cpu/soft/cpu.h"

Ferry__Vcpu *soft_vcpu_save(struct fy_engine *en, unsigned vcpu, struct fy_err *e);
int soft_vcpu_load(struct fy_engine *en, unsigned vcpu, const Ferry__Vcpu *state, struct fy_err *e);
int soft_chips_save(struct fy_engine *en, Ferry__IrqChips **chips, Ferry__Pit **pit, struct fy_err *e);
int soft_chips_load(struct fy_engine *en, const Ferry__IrqChips *chips, const Ferry__Pit *pit,
                    struct fy_err *e);
int soft_clock_save(struct fy_engine *en, Ferry__Clock *clock, uint64_t *tsc, struct fy_err *e);
int soft_clock_load(struct fy_engine *en, const Ferry__Clock *clock, const uint64_t *tsc,
                    uint64_t *elapsed_ns, char *warning, struct fy_err *e);

/* chips/state.c: the LAPIC's page of Vcpu.lapic (1024 bytes), and its power-on state. */
void soft_lapic_save(struct soft_cpu *c, uint8_t page[1024]);
void soft_lapic_load(struct soft_cpu *c, const uint8_t page[1024]);
void soft_lapic_power_on(struct soft_cpu *c);

/* msr.c: write the guest's kvmclock page anew, where it has one. */
void soft_kvmclock_update(struct soft_cpu *c);

#endif
