// SPDX-License-Identifier: Apache-2.0
/* A guest of any bytes on the software CPU: real mode, protected mode, long mode at CPL 0 or 3. It may do
 * what it likes to its vCPU, its page tables and the chips; this process must go on. Input: a byte that
 * chooses the mode, 16 that seed the registers, then code. Every exception and interrupt goes on somewhere in
 * the code. */
#include <poll.h>
#include <string.h>

#include "hv/cpu/soft/exec.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/softvm.h"

#define CODE_MAX 0x8000u
#define HEAD 17
#define INSNS 1500

static struct soft_cpu *cpu;
static char report[FY_REPORT_MAX];

/* A guest that halts with no timer running waits for the outside world, which here is this: nothing tells
 * when it begins to wait, so it is looked at. */
static void *wake(void *arg)
{
    for (;;) {
        poll(NULL, 0, 1);
        if (__atomic_load_n(&cpu->waiting, __ATOMIC_SEQ_CST))
            soft_request(cpu, SOFT_REQ_KICK);
    }
    return arg;
}

static void make(void)
{
    pthread_t t;
    cpu = softvm_make(1, true)->cpus[0];
    cpu->report = report;
    MUST(pthread_create(&t, NULL, wake, NULL) == 0);
    pthread_detach(t);
}

static void start(const uint8_t *data, size_t size)
{
    softvm_reset(cpu->vm);
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = SOFTVM_STACK + (uint64_t)data[1 + i] * 0x301;
    cpu->gpr[SOFT_RSP] = SOFTVM_STACK;
    memcpy(fy_gmem_at(cpu->vm->gmem, SOFTVM_CODE, CODE_MAX), data + HEAD, size - HEAD);
    softvm_enter(cpu->vm, data[0]);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size <= HEAD || size > HEAD + CODE_MAX)
        return 0;
    if (!cpu)
        make();
    start(data, size);
    cpu->vm->stop_at = cpu->insns + INSNS;
    soft_loop(cpu); /* stopped at the count, halted for good, or crashed */
    MUST(cpu->insns <= cpu->vm->stop_at);
    __atomic_fetch_and(&cpu->requests, ~SOFT_REQ_KICK, __ATOMIC_SEQ_CST);
    MUST(cpu->gpr[SOFT_GPR_ZERO] == 0);
    return 0;
}
