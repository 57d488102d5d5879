// SPDX-License-Identifier: Apache-2.0
/* The software engine: what the machine and ferry-hv's main file see of it. */
#ifndef FERRY_SOFT_ENGINE_H
#define FERRY_SOFT_ENGINE_H

#include "hv/cpu/cpu.h"
#include "hv/cpu/model.h"

/* What the software CPU offers on any host: its CPUID, its MSRs, any TSC frequency. Fills *out; tsc_khz is
 * the host's. Any thread. */
void fy_soft_support(struct fy_cpu_support *out);

/* One JSON object (no newline at its end) about this engine into buf, for `vmctl doctor`. Any thread. */
int fy_soft_probe_json(char *buf, size_t room, struct fy_err *e);

/* A machine of config->vcpus software vCPUs, at power-on; NULL with *e set. The main thread. */
struct fy_engine *fy_soft_engine_new(const struct fy_engine_config *config, struct fy_err *e);

#endif
