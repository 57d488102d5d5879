// SPDX-License-Identifier: Apache-2.0
/* A machine of the software engine for fuzz targets, with every feature in its policy, and one access to its
 * chips as an operation. */
#ifndef FERRY_TESTS_FUZZ_SOFTVM_H
#define FERRY_TESTS_FUZZ_SOFTVM_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/cpu/soft/vm.h"

#define SOFTVM_RAM (2ull << 20)
#define SOFTVM_CODE 0x10000u
#define SOFTVM_STACK 0x20000u

/* A machine at power-on, of `vcpus` vCPUs, or of one that counts instructions. Its policy names the MSRs that
 * travel. Never freed; ends the program where it cannot be made. */
struct soft_vm *softvm_make(unsigned vcpus, bool icount);
/* Everything as at power-on: memory zero, both clocks of the guest 0 where the engine's time is now. */
void softvm_reset(struct soft_vm *vm);
/* vCPU 0 is about to run the code: real mode (mode & 3 is 0), long mode (mode & 2) or protected mode, at CPL
 * 3 with mode & 4, else 0. With the tables. */
void softvm_enter(struct soft_vm *vm, unsigned mode);

/* One access to a chip, or an interrupt's line or message, as `op` and then `value` say; or time goes on by
 * what is returned (ns), which is the caller's to do. */
uint64_t softvm_chip_op(struct soft_vm *vm, uint32_t op, uint32_t value);
/* What is due fires, as it does when the timer's thread comes to it. */
void softvm_fire(struct soft_vm *vm);

#endif
