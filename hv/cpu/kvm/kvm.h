// SPDX-License-Identifier: Apache-2.0
/* The KVM engine. Only files in this folder include <linux/kvm.h>. */
#ifndef FERRY_CPU_KVM_KVM_H
#define FERRY_CPU_KVM_KVM_H

#include "hv/cpu/cpu.h"
#include "hv/cpu/model.h"

/* What this host's KVM offers. kvm_fd: /dev/kvm, stays the caller's. */
int fy_kvm_support(int kvm_fd, struct fy_cpu_support *out, struct fy_err *e);

/* Make a VM with its memory, interrupt chips and vCPUs. kvm_fd stays the caller's and may be closed after.
 * Where policy->msrs is empty the engine finds out which travel; else a listed MSR that cannot be read or
 * written here is an error (FY_EREFUSED). */
struct fy_engine *fy_kvm_engine_new(int kvm_fd, const struct fy_engine_config *config, struct fy_err *e);

/* Whether this KVM is fit for ordinary kernels: it runs ring 0 natively (a few thousand instructions are
 * timed), and what kernels execute there while they boot. Makes a VM of its own for the length of the call,
 * some milliseconds. */
bool fy_kvm_fit(int kvm_fd);

/* One JSON object (no newline at its end) about this host's KVM into buf, for `vmctl doctor`. Makes a VM of
 * its own for the length of the call. */
int fy_kvm_probe_json(int kvm_fd, char *buf, size_t room, struct fy_err *e);

#endif
