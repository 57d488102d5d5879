// SPDX-License-Identifier: Apache-2.0
/* A vCPU's state on its way into KVM and out again, without KVM: ioctl() is ours here, and gives back what
 * was set. The first byte says what this KVM has; the rest is a Vcpu message. */
#include <errno.h>
#include <stdarg.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/cpu/kvm/internal.h"
#include "hv/cpu/state.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/loads.h"
#include "tests/fuzz/message.h"
#include "tests/fuzz/still.h"

#define LAST 0x200

int __wrap_ioctl(int fd, unsigned long request, ...);

static uint8_t kept[LAST][4096];
static uint64_t msr_values[FY_MSRS_MAX];

static const struct {
    unsigned long get, set;
} pairs[] = {
    {KVM_GET_REGS, KVM_SET_REGS},           {KVM_GET_SREGS, KVM_SET_SREGS},
    {KVM_GET_SREGS2, KVM_SET_SREGS2},       {KVM_GET_XSAVE, KVM_SET_XSAVE},
    {KVM_GET_XSAVE2, KVM_SET_XSAVE},        {KVM_GET_XCRS, KVM_SET_XCRS},
    {KVM_GET_LAPIC, KVM_SET_LAPIC},         {KVM_GET_MP_STATE, KVM_SET_MP_STATE},
    {KVM_GET_DEBUGREGS, KVM_SET_DEBUGREGS}, {KVM_GET_VCPU_EVENTS, KVM_SET_VCPU_EVENTS},
};

/* Entry i of a list is MSR i of the policy, or one that is asked for alone. */
static int msrs(bool set, struct kvm_msrs *m)
{
    const Ferry__CpuPolicy *p = still_policy(true);
    MUST(m->nmsrs <= FY_MSRS_MAX);
    for (uint32_t i = 0; i < m->nmsrs; i++)
        for (size_t k = 0; k < p->n_msrs; k++) {
            if (p->msrs[k] != m->entries[i].index)
                continue;
            if (set)
                msr_values[k] = m->entries[i].data;
            else
                m->entries[i].data = msr_values[k];
        }
    return (int)m->nmsrs;
}

int __wrap_ioctl(int fd, unsigned long request, ...)
{
    (void)fd;
    va_list ap;
    va_start(ap, request);
    void *arg = va_arg(ap, void *);
    va_end(ap);
    size_t size = _IOC_SIZE(request);
    if (request == KVM_SET_MSRS || request == KVM_GET_MSRS)
        return msrs(request == KVM_SET_MSRS, arg);
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++) {
        uint8_t *at = kept[_IOC_NR(pairs[i].set)];
        if (request == pairs[i].set) {
            memcpy(at, arg, size);
            /* The kernel has one set of registers behind both. */
            if (request == KVM_SET_SREGS2)
                memcpy(kept[_IOC_NR(KVM_SET_SREGS)], arg, offsetof(struct kvm_sregs, interrupt_bitmap));
            return 0;
        }
        if (request == pairs[i].get) {
            memcpy(arg, at, size);
            return 0;
        }
    }
    if (request == KVM_CHECK_EXTENSION)
        return 0;
    errno = ENOTTY;
    return -1;
}

static uint8_t *packed(const Ferry__Vcpu *v, size_t *len)
{
    *len = ferry__vcpu__get_packed_size(v);
    uint8_t *buf = malloc(*len + 1);
    MUST(buf && ferry__vcpu__pack(v, buf) == *len);
    return buf;
}

static void in_and_out(struct fy_kvm *k, const Ferry__Vcpu *v)
{
    struct fy_err e = {0};
    size_t len;
    size_t len2;
    MUST(fy_kvm_vcpu_load(&k->base, 0, v, &e) == 0);
    Ferry__Vcpu *once = fy_kvm_vcpu_save(&k->base, 0, &e);
    MUST(once && fy_vcpu_validate(once, 0, k->policy, &e) == 0);
    MUST(!memcmp(once->gpr, v->gpr, 16 * sizeof *v->gpr) && once->rip == v->rip && once->rflags == v->rflags);
    MUST(once->cr0 == v->cr0 && once->cr3 == v->cr3 && once->efer == v->efer && once->cr8 == v->cr8);
    MUST(!memcmp(once->lapic.data, v->lapic.data, FY_LAPIC_LEN) && once->run_state == v->run_state);
    for (size_t i = 0; i < v->n_msrs; i++)
        MUST(once->msrs[i]->value == v->msrs[i]->value);
    for (int i = 0; i < 8; i++)
        MUST(once->segments[i]->base_address == v->segments[i]->base_address &&
             once->segments[i]->limit == v->segments[i]->limit &&
             once->segments[i]->selector == v->segments[i]->selector);
    MUST(fy_kvm_vcpu_load(&k->base, 0, once, &e) == 0);
    Ferry__Vcpu *twice = fy_kvm_vcpu_save(&k->base, 0, &e);
    MUST(twice);
    uint8_t *a = packed(once, &len);
    uint8_t *b = packed(twice, &len2);
    MUST(len == len2 && !memcmp(a, b, len));
    free(a);
    free(b);
    ferry__vcpu__free_unpacked(once, NULL);
    ferry__vcpu__free_unpacked(twice, NULL);
}

const struct fuzz_loads fuzz_loads = {
    .head = 1, .kinds = 1, .kind = {{"kvmstate", &ferry__vcpu__descriptor, NULL}}};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct fy_kvm k;
    struct fy_err e = {0};
    if (!size)
        return 0;
    const Ferry__CpuPolicy *policy = still_policy(true);
    Ferry__Vcpu *v = ferry__vcpu__unpack(NULL, size - 1, data + 1);
    if (!v)
        return 0;
    v->index = 0;
    memset(&k, 0, sizeof k);
    memset(kept, 0, sizeof kept);
    memset(msr_values, 0, sizeof msr_values);
    k.policy = policy;
    k.vcpu_count = 1;
    k.vcpus[0].fd = -1;
    k.has_sregs2 = data[0] & 1;
    k.has_payload = data[0] & 2;
    k.has_triple_fault = data[0] & 4;
    k.has_xcrs = !(data[0] & 8);
    k.has_xsave2 = data[0] & 16;
    k.msr_count = policy->n_msrs;
    memcpy(k.msrs, policy->msrs, policy->n_msrs * sizeof *k.msrs);
    bool taken = fy_vcpu_validate(v, 0, policy, &e) == 0;
    fuzz_load_tried(0, data + 1, size - 1, taken);
    if (taken) {
        fuzz_forget_unknown(&v->base);
        in_and_out(&k, v);
    }
    ferry__vcpu__free_unpacked(v, NULL);
    return 0;
}
