// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/cpu/kvm/internal.h"
#include "hv/cpu/probe.h"

static int read_cpuid(int kvm_fd, struct fy_cpu_support *out, struct fy_err *e)
{
    enum { ROOM = 256 };
    struct kvm_cpuid2 *c = calloc(1, sizeof *c + ROOM * sizeof c->entries[0]);
    if (!c)
        return fy_fail(e, FY_ERESOURCE, "no memory for CPUID leaves");
    c->nent = ROOM;
    if (ioctl(kvm_fd, KVM_GET_SUPPORTED_CPUID, c) < 0) {
        free(c);
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "KVM_GET_SUPPORTED_CPUID");
    }
    for (uint32_t i = 0; i < c->nent && i < ROOM; i++) {
        const struct kvm_cpuid_entry2 *x = &c->entries[i];
        bool empty = !(x->eax | x->ebx | x->ecx | x->edx);
        if (empty || out->cpuid_count == FY_CPUID_MAX)
            continue;
        out->cpuid[out->cpuid_count++] =
            (struct fy_cpuid){.function = x->function,
                              .index = x->index,
                              .indexed = x->flags & KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
                              .r = {x->eax, x->ebx, x->ecx, x->edx}};
    }
    free(c);
    return 0;
}

/* KVM emulates these whatever its CPUID list says; older kernels tell of the timer by capability alone. */
static void add_emulated(int kvm_fd, struct fy_cpu_support *s)
{
    for (size_t i = 0; i < s->cpuid_count; i++) {
        if (s->cpuid[i].function != 1)
            continue;
        s->cpuid[i].r[2] |= 1u << 31;
        if (fy_kvm_cap(kvm_fd, KVM_CAP_TSC_DEADLINE_TIMER))
            s->cpuid[i].r[2] |= 1u << 24;
    }
}

/* A VM with one vCPU and nothing else, for questions that only a vCPU answers. */
struct trial {
    int vm, vcpu;
};

static int trial_open(int kvm_fd, struct trial *t, struct fy_err *e)
{
    t->vcpu = -1;
    do
        t->vm = ioctl(kvm_fd, KVM_CREATE_VM, 0);
    while (t->vm < 0 && errno == EINTR);
    if (t->vm >= 0 && ioctl(t->vm, KVM_CREATE_IRQCHIP, 0) == 0)
        t->vcpu = ioctl(t->vm, KVM_CREATE_VCPU, 0);
    if (t->vcpu >= 0)
        return 0;
    fy_fail_errno(e, FY_EUNSUPPORTED, errno, "KVM cannot make a VM");
    fy_close(&t->vm);
    return -1;
}

static void *close_main(void *arg)
{
    struct trial *t = arg;
    fy_close(&t->vcpu);
    fy_close(&t->vm);
    free(t);
    return NULL;
}

/* The end of a VM waits for grace periods, 10 ms and more: not on the way to a guest's start. */
static void trial_close(const struct trial *t)
{
    struct trial *copy = malloc(sizeof *copy);
    pthread_t id;
    if (!copy) {
        close(t->vcpu);
        close(t->vm);
        return;
    }
    *copy = *t;
    if (pthread_create(&id, NULL, close_main, copy))
        close_main(copy);
    else
        pthread_detach(id);
}

int fy_kvm_support(int kvm_fd, struct fy_cpu_support *out, struct fy_err *e)
{
    memset(out, 0, sizeof *out);
    if (ioctl(kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return fy_fail(e, FY_EUNSUPPORTED, "no usable KVM on this host");
    if (read_cpuid(kvm_fd, out, e) < 0)
        return -1;
    add_emulated(kvm_fd, out);
    out->msr_count = fy_kvm_msrs_listed(kvm_fd, true, out->msrs, FY_ARRAY_LEN(out->msrs));
    struct trial t;
    if (trial_open(kvm_fd, &t, e) < 0)
        return -1;
    int khz = ioctl(t.vcpu, KVM_GET_TSC_KHZ, 0);
    out->tsc_khz = khz > 0 ? (uint32_t)khz : 0;
    out->tsc_scales = fy_kvm_cap(kvm_fd, KVM_CAP_TSC_CONTROL);
    out->tsc_offsets = fy_kvm_tsc_can_offset(t.vcpu);
    trial_close(&t);
    return out->tsc_khz ? 0 : fy_fail(e, FY_EUNSUPPORTED, "KVM does not know its TSC's frequency");
}

/* Emulated ring 0 does one or two million instructions a second, the slowest nested processor tens. */
#define EMULATED_BELOW_MIPS 5.0

static void put_ring0(struct fy_text *j, int kvm_fd)
{
    struct trial t;
    double mips;
    bool complete;
    if (trial_open(kvm_fd, &t, NULL) < 0)
        return;
    if (fy_kvm_ring0(kvm_fd, t.vm, t.vcpu, &mips, &complete) == 0)
        fy_text_put(j, "\"ring0_mips\":%.2f,\"ring0_emulated\":%s,\"ring0_complete\":%s,", mips,
                    mips < EMULATED_BELOW_MIPS ? "true" : "false", complete ? "true" : "false");
    trial_close(&t);
}

bool fy_kvm_fit(int kvm_fd)
{
    struct trial t;
    double mips = 0;
    bool complete = false;
    if (trial_open(kvm_fd, &t, NULL) < 0)
        return false;
    bool fit =
        fy_kvm_ring0(kvm_fd, t.vm, t.vcpu, &mips, &complete) == 0 && mips >= EMULATED_BELOW_MIPS && complete;
    trial_close(&t);
    return fit;
}

int fy_kvm_probe_json(int kvm_fd, char *buf, size_t room, struct fy_err *e)
{
    struct fy_cpu_support *s = calloc(1, sizeof *s);
    if (!s)
        return fy_fail(e, FY_ERESOURCE, "no memory");
    if (fy_kvm_support(kvm_fd, s, e) < 0) {
        free(s);
        return -1;
    }
    struct fy_text j = {.p = buf, .room = room};
    int ring = fy_kvm_cap(kvm_fd, KVM_CAP_DIRTY_LOG_RING);
    if (!ring)
        ring = fy_kvm_cap(kvm_fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
    int manual = fy_kvm_cap(kvm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2);
    fy_text_put(&j, "{\"engine\":\"kvm\",\"api\":%d,\"max_vcpus\":%d,", ioctl(kvm_fd, KVM_GET_API_VERSION, 0),
                FY_MIN(fy_kvm_cap(kvm_fd, KVM_CAP_MAX_VCPUS), FY_VCPUS_LIMIT));
    fy_text_put(&j, "\"dirty_log_manual\":%s,\"dirty_log_initially_set\":%s,\"dirty_ring_entries\":%d,",
                manual & 1 ? "true" : "false", manual & 2 ? "true" : "false",
                ring / (int)sizeof(struct kvm_dirty_gfn));
    fy_text_put(&j, "\"tsc_khz\":%u,\"tsc_offset\":%s,\"tsc_scaling\":%s,", s->tsc_khz,
                s->tsc_offsets ? "true" : "false", s->tsc_scales ? "true" : "false");
    fy_text_put(&j, "\"emulation_failure_exit\":%s,\"immediate_exit\":%s,\"msrs\":%zu,",
                fy_kvm_cap(kvm_fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE) ? "true" : "false",
                fy_kvm_cap(kvm_fd, KVM_CAP_IMMEDIATE_EXIT) ? "true" : "false", s->msr_count);
    put_ring0(&j, kvm_fd);
    fy_cpu_models_json(&j, s);
    fy_text_put(&j, "}");
    free(s);
    return 0;
}
