// SPDX-License-Identifier: Apache-2.0
/* A machine without KVM for fuzz targets: an engine whose vCPUs never execute anything, and clocks that
 * stand. still.c takes the place of hv/cpu/kvm/vm.c and hv/base/clock.c when a target is linked. */
#ifndef FERRY_TESTS_FUZZ_STILL_H
#define FERRY_TESTS_FUZZ_STILL_H

#include "hv/base/loop.h"
#include "hv/vm/machine.h"
#include "proto/state.pb-c.h"

#define STILL_VCPUS 2
#define STILL_BYTES (4ull << 20)
#define STILL_MSRS 4

/* A policy with SSE, or (avx) with AVX and its XSAVE component; STILL_MSRS MSRs. Never freed. policy.c,
 * which needs no machine. */
const Ferry__CpuPolicy *still_policy(bool avx);

/* A fresh machine of STILL_VCPUS and STILL_BYTES, parked. runlog_fd stays the caller's. Ends the program
 * where it cannot be made. */
struct fy_machine *still_machine(struct fy_loop *loop, int runlog_fd, void (*ended)(void *), void *arg);
/* The same, of machine revision `revision`. */
struct fy_machine *still_machine_of(struct fy_loop *loop, uint32_t revision, int runlog_fd,
                                    void (*ended)(void *), void *arg);

/* vcpu_load and chips_load calls of all machines so far. */
unsigned still_loads(void);

#endif
