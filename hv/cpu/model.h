// SPDX-License-Identifier: Apache-2.0
/* CPU models: what a guest sees of its processor, as an explicit CPUID and MSR policy. A model is resolved
 * once, when the guest is created; the result travels with the guest and every target checks it bit by bit.
 * Levels: x86-64 psABI, "Micro-Architecture Levels". */
#ifndef FERRY_CPU_MODEL_H
#define FERRY_CPU_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/machine.pb-c.h"

#define FY_CPUID_MAX 128

struct fy_cpuid {
    uint32_t function, index;
    bool indexed;
    uint32_t r[4]; /* eax ebx ecx edx */
};

/* What an engine offers on this host. */
struct fy_cpu_support {
    struct fy_cpuid cpuid[FY_CPUID_MAX];
    size_t cpuid_count;
    uint32_t msrs[512]; /* that it can save and load */
    size_t msr_count;
    bool msrs_any; /* keeps the value of any MSR that travels */
    uint32_t tsc_khz;
    bool tsc_scales;  /* a guest's TSC frequency may differ from the host's */
    bool tsc_offsets; /* a guest's TSC may differ from the host's */
};

/* The models that people may name, in order, then NULL: "host", "x86-64-v1", ... */
extern const char *const fy_cpu_models[];

/* The default on this host: the highest of x86-64-v1 and -v2 that it offers ("x86-64-v1" where neither). */
const char *fy_cpu_default_model(const struct fy_cpu_support *s);

/* Fill out->model, cpuid and tsc_khz (fresh; out is a message made with ferry__cpu_policy__init, empty) for a
 * model's name; "" is the default. FY_EUSAGE for an unknown name; FY_EREFUSED when the host lacks features:
 * every missing one on a line of its own. MSRs are the engine's to add. */
int fy_cpu_resolve(const char *model, const struct fy_cpu_support *s, Ferry__CpuPolicy *out,
                   struct fy_err *e);

/* Can this host run the policy? FY_EREFUSED with every reason, a line each. Checks its form too
 * (FY_ECORRUPT): the policy may come from a peer. */
int fy_cpu_check(const Ferry__CpuPolicy *policy, const struct fy_cpu_support *s, struct fy_err *e);

/* XSAVE components that the policy gives the guest: 3 where it has none. */
uint64_t fy_cpu_xcr0(const Ferry__CpuPolicy *policy);

/* Whether the policy has feature `name` ("rdtscp"). False for an unknown name. */
bool fy_cpu_has(const Ferry__CpuPolicy *policy, const char *name);

/* The policy's leaves with the fields that differ by vCPU filled in: APIC id, topology. Returns their number.
 */
size_t fy_cpu_leaves(const Ferry__CpuPolicy *policy, unsigned vcpu, unsigned vcpus,
                     struct fy_cpuid out[FY_CPUID_MAX]);

/* Append "text\n"-separated reasons to *e, whose code becomes `code`. *e starts with text "". */
void fy_reason_add(struct fy_err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
