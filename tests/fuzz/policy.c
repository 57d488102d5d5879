// SPDX-License-Identifier: Apache-2.0
#include "tests/fuzz/still.h"

const Ferry__CpuPolicy *still_policy(bool avx)
{
    static uint32_t msrs[STILL_MSRS] = {0x174, 0x175, 0x176, 0xc0000081};
    static Ferry__CpuPolicy policies[2];
    static Ferry__CpuidEntry entries[2];
    static Ferry__CpuidEntry *lists[2][1] = {{&entries[0]}, {&entries[1]}};
    for (int i = 0; i < 2; i++) {
        ferry__cpu_policy__init(&policies[i]);
        ferry__cpuid_entry__init(&entries[i]);
        entries[i].function = 0xd;
        entries[i].indexed = true;
        entries[i].eax = i ? 7 : 3;
        policies[i].cpuid = lists[i];
        policies[i].n_cpuid = 1;
        policies[i].msrs = msrs;
        policies[i].n_msrs = sizeof msrs / sizeof *msrs;
        policies[i].tsc_khz = 2000000;
    }
    return &policies[avx];
}
