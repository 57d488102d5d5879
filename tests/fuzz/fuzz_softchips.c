// SPDX-License-Identifier: Apache-2.0
/* The software engine's interrupt chips, timers and clock: a state from outside is loaded, two vCPUs and the
 * board's devices then use the chips, and what is saved after that must be a state that is taken and saved
 * again the same. Input: a byte for the kind, u16 length, the message, operations of 4 bytes in pairs. Its
 * own clock stands, but for operations that move it; the timer's thread runs as in a machine. */
#include "hv/base/clock.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/ops.h"
#include "tests/fuzz/softstate.h"
#include "tests/fuzz/softvm.h"

/* Later than the host's monotonic clock will ever be: the timer's thread wakes when it is told to only. */
#define BEGIN_NS (1ull << 62)
static uint64_t now_ns = BEGIN_NS;
#define REALTIME_NS 1700000000123456789ull

uint64_t fy_now_ns(void)
{
    return __atomic_load_n(&now_ns, __ATOMIC_SEQ_CST);
}

uint64_t fy_realtime_ns(void)
{
    return REALTIME_NS;
}

uint64_t fy_thread_cpu_ns(void)
{
    return 0;
}

uint64_t fy_process_cpu_ns(void)
{
    return 0;
}

const struct fuzz_loads fuzz_loads = {.head = 1,
                                      .counted = true,
                                      .kinds = 4,
                                      .kind = {{"irqchip", &ferry__irq_chips__descriptor, NULL},
                                               {"pit", &ferry__pit__descriptor, NULL},
                                               {"clock", &ferry__clock__descriptor, NULL},
                                               {"lapic", &ferry__vcpu__descriptor, NULL}}};

static const enum softstate_part parts[] = {PART_IRQCHIP, PART_PIT, PART_CLOCK, PART_VCPU};

static void advance(uint64_t ns)
{
    __atomic_store_n(&now_ns, now_ns + ns, __ATOMIC_SEQ_CST);
}

static struct soft_vm *fresh(void)
{
    static struct soft_vm *vm;
    if (!vm)
        vm = softvm_make(2, false);
    __atomic_store_n(&now_ns, BEGIN_NS, __ATOMIC_SEQ_CST);
    softvm_reset(vm);
    return vm;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    unsigned kind = fuzz_kind(data[0]);
    uint64_t seed = 0x9e3779b97f4a7c15ull ^ size;
    struct soft_vm *vm = fresh();
    data++;
    size--;
    if (!softstate_load_input(vm, kind, parts[kind], &data, &size))
        return 0;
    for (unsigned i = 0; i < fuzz_operations_wanted(); i++) {
        uint32_t op = fuzz_next_op(&data, &size, &seed);
        advance(softvm_chip_op(vm, op, fuzz_next_op(&data, &size, &seed)));
        softvm_fire(vm);
    }
    fuzz_operations(fuzz_operations_wanted());
    softstate_same_after_load(vm, kind, parts[kind]);
    return 0;
}
