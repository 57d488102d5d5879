// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_BASE_CLOCK_H
#define FERRY_BASE_CLOCK_H

#include <stdint.h>

/* Nanoseconds of CLOCK_MONOTONIC, CLOCK_REALTIME, and of this thread's or process's CPU time. Any thread. */
uint64_t fy_now_ns(void);
uint64_t fy_realtime_ns(void);
uint64_t fy_thread_cpu_ns(void);
uint64_t fy_process_cpu_ns(void);

#endif
