// SPDX-License-Identifier: Apache-2.0
#include "hv/base/clock.h"

#include <time.h>

static uint64_t read_ns(clockid_t id)
{
    struct timespec ts;
    clock_gettime(id, &ts);
    return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

uint64_t fy_now_ns(void)
{
    return read_ns(CLOCK_MONOTONIC);
}

uint64_t fy_realtime_ns(void)
{
    return read_ns(CLOCK_REALTIME);
}

uint64_t fy_thread_cpu_ns(void)
{
    return read_ns(CLOCK_THREAD_CPUTIME_ID);
}

uint64_t fy_process_cpu_ns(void)
{
    return read_ns(CLOCK_PROCESS_CPUTIME_ID);
}
