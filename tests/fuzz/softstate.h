// SPDX-License-Identifier: Apache-2.0
/* The whole engine state of a machine of softvm.h, as messages: saved, loaded, compared. */
#ifndef FERRY_TESTS_FUZZ_SOFTSTATE_H
#define FERRY_TESTS_FUZZ_SOFTSTATE_H

#include "hv/cpu/soft/vm.h"

#define SOFTSTATE_VCPUS 2

enum softstate_part {
    PART_IRQCHIP,
    PART_PIT,
    PART_CLOCK,
    PART_ICOUNT,
    PART_VCPU,
    PARTS = PART_VCPU + SOFTSTATE_VCPUS
};

/* An input {message, rest}: the message is loaded over the machine's state as it is. true: go on with *data,
 * which is then the rest. */
bool softstate_load_input(struct soft_vm *vm, unsigned kind, enum softstate_part part, const uint8_t **data,
                          size_t *size);
/* What is saved now is taken, and saved again the same; the part is offered to others as a state. */
void softstate_same_after_load(struct soft_vm *vm, unsigned kind, enum softstate_part part);

#endif
