// SPDX-License-Identifier: Apache-2.0
/* A vCPU's state, or the one that counts instructions, from outside on the software engine: loaded, then as
 * many instructions run as there are operations, and what is left of them after a crash are accesses to the
 * chips. What is saved after that must be a state that is taken and saved again the same. Input: a byte for
 * the kind and the mode, u16 length, the message, code. */
#include <poll.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/cpu/soft/chips/internal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/ops.h"
#include "tests/fuzz/softstate.h"
#include "tests/fuzz/softvm.h"

#define CODE_WORDS 256u /* as far as the gates of the interrupt table go */

static struct soft_vm *vm;
static struct soft_cpu *cpu;
static char report[FY_REPORT_MAX];

const struct fuzz_loads fuzz_loads = {
    .head = 1,
    .counted = true,
    .kinds = 2,
    .kind = {{"vcpu", &ferry__vcpu__descriptor, NULL}, {"icount", &ferry__icount__descriptor, NULL}}};

static unsigned running; /* number of the run that is under way; 0: none */

/* Who waits for what never comes is told to leave, as is a vCPU that gets from one exception to the next and
 * never to an instruction, so that it does not come to its count. */
static void *wake(void *arg)
{
    unsigned last = 0, since = 0;
    for (;;) {
        poll(NULL, 0, 1);
        unsigned now = __atomic_load_n(&running, __ATOMIC_SEQ_CST);
        since = now == last ? since + 1 : 0;
        last = now;
        if (now && (__atomic_load_n(&cpu->waiting, __ATOMIC_SEQ_CST) || since > 50))
            soft_request(cpu, SOFT_REQ_KICK);
    }
    return arg;
}

static void make(void)
{
    pthread_t t;
    vm = softvm_make(1, true);
    cpu = vm->cpus[0];
    MUST(pthread_create(&t, NULL, wake, NULL) == 0);
    pthread_detach(t);
}

/* At most `count` instructions. Returns how many were done. */
static unsigned run(unsigned count)
{
    uint64_t begin = cpu->insns;
    vm->stop_at = begin + count;
    cpu->report = report;
    static unsigned number;
    __atomic_store_n(&running, ++number, __ATOMIC_SEQ_CST);
    soft_loop(cpu);
    __atomic_store_n(&running, 0, __ATOMIC_SEQ_CST);
    MUST(cpu->insns <= vm->stop_at && cpu->gpr[SOFT_GPR_ZERO] == 0);
    __atomic_fetch_and(&cpu->requests, ~SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
    vm->stop_at = FY_ICOUNT_NEVER;
    return (unsigned)(cpu->insns - begin);
}

static void operate(const uint8_t *data, size_t size)
{
    uint64_t seed = 0x9e3779b97f4a7c15ull ^ size;
    unsigned wanted = fuzz_operations_wanted();
    for (unsigned i = 0; i < CODE_WORDS; i++) {
        uint32_t word = fuzz_next_op(&data, &size, &seed);
        memcpy(fy_gmem_at(vm->gmem, SOFTVM_CODE + 4 * i, 4), &word, 4);
    }
    for (unsigned i = run(wanted); i < wanted; i++) {
        uint32_t op = fuzz_next_op(&data, &size, &seed);
        uint64_t ns = softvm_chip_op(vm, op, fuzz_next_op(&data, &size, &seed));
        vm->chips->warp_ns = FY_MIN(vm->chips->warp_ns + ns, FY_ICOUNT_MAX / 2);
        softvm_fire(vm);
    }
    fuzz_operations(wanted);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const enum softstate_part parts[] = {PART_VCPU, PART_ICOUNT};
    if (!size)
        return 0;
    if (!vm)
        make();
    unsigned kind = fuzz_kind(data[0]);
    cpu->insns = 0;
    vm->chips->warp_ns = 0;
    softvm_reset(vm);
    softvm_enter(vm, data[0] >> 1);
    data++;
    size--;
    if (!softstate_load_input(vm, kind, parts[kind], &data, &size))
        return 0;
    operate(data, size);
    softstate_same_after_load(vm, kind, parts[kind]);
    return 0;
}
