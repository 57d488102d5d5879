// SPDX-License-Identifier: Apache-2.0
/* Which MSRs travel with a guest, and their reading and writing. Numbers: Intel SDM volume 4, AMD APM volume
 * 2 appendix A, Linux Documentation/virt/kvm/x86/msr.rst. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/base/log.h"
#include "hv/cpu/kvm/internal.h"

#define MSR_TSC_ADJUST 0x3bu
#define MSR_TSC_DEADLINE 0x6e0u
#define MSR_TSC_AUX 0xc0000103u
#define MCE_BANKS 10u

/* MSRs that KVM lists and that do not travel. */
static const struct {
    uint32_t first, last;
    const char *why;
} stay[] = {
    {0x10, 0x10, "the TSC goes by offset"},
    {0x11, 0x12, "older names of 0x4b564d00 and 0x4b564d01"},
    {MSR_TSC_ADJUST, MSR_TSC_ADJUST, "has a field of its own"},
    {0xc1, 0xc8, "no performance counters are offered"},
    {0x10a, 0x10a, "the model has no ARCH_CAPABILITIES; KVM's default is the host's"},
    {0x186, 0x18d, "no performance counters are offered"},
    {0x1c4, 0x1c5, "no AMX is offered"},
    {0x1db, 0x1de, "records of past branches, read-only on AMD's processors"},
    {0x309, 0x30c, "no performance counters are offered"},
    {0x345, 0x345, "no performance counters are offered"},
    {0x38d, 0x390, "no performance counters are offered"},
    {0x3f1, 0x3f2, "no performance counters are offered"},
    {0x480, 0x493, "no VMX is offered"},
    {0x600, 0x600, "no debug store is offered"},
    {0x560, 0x571, "no processor trace is offered"},
    {0x580, 0x587, "no processor trace is offered"},
    {0x40000000, 0x400001ff, "no Hyper-V interface is offered"},
    {0x4b564d00, 0x4b564d00, "loading it makes KVM write guest memory; a guest sets it before each use"},
    {0xc0000300, 0xc0000303, "no performance counters are offered"},
    {0xc0010000, 0xc0010007, "no performance counters are offered"},
    {0xc0010117, 0xc0010117, "no SVM is offered"},
    {0xc0010200, 0xc001020b, "no performance counters are offered"},
};

/* MTRRs and machine-check registers, which KVM keeps and does not list. */
static const uint32_t mtrrs[] = {
    0x2ff, 0x200, 0x201, 0x202, 0x203, 0x204, 0x205, 0x206, 0x207, 0x208, 0x209, 0x20a, 0x20b, 0x20c,
    0x20d, 0x20e, 0x20f, 0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f,
};

static bool stays(uint32_t index)
{
    for (size_t i = 0; i < sizeof stay / sizeof stay[0]; i++)
        if (index >= stay[i].first && index <= stay[i].last)
            return true;
    return false;
}

/* KVM's messages end in an array; these give it room. */
union one_msr {
    struct kvm_msrs head;
    uint8_t room[sizeof(struct kvm_msrs) + sizeof(struct kvm_msr_entry)];
};

union many_msrs {
    struct kvm_msrs head;
    uint8_t room[sizeof(struct kvm_msrs) + FY_MSRS_MAX * sizeof(struct kvm_msr_entry)];
};

#define MSR_LIST_MAX 1024u

union msr_list {
    struct kvm_msr_list head;
    uint8_t room[sizeof(struct kvm_msr_list) + MSR_LIST_MAX * sizeof(uint32_t)];
};

int fy_kvm_msr_read(int fd, uint32_t index, uint64_t *value)
{
    union one_msr m;
    memset(&m, 0, sizeof m);
    m.head.nmsrs = 1;
    m.head.entries[0].index = index;
    if (ioctl(fd, KVM_GET_MSRS, &m) != 1)
        return -1;
    *value = m.head.entries[0].data;
    return 0;
}

int fy_kvm_msr_write(int fd, uint32_t index, uint64_t value)
{
    union one_msr m;
    memset(&m, 0, sizeof m);
    m.head.nmsrs = 1;
    m.head.entries[0].index = index;
    m.head.entries[0].data = value;
    return ioctl(fd, KVM_SET_MSRS, &m) == 1 ? 0 : -1;
}

static size_t add(uint32_t *out, size_t n, size_t room, uint32_t index)
{
    for (size_t i = 0; i < n; i++)
        if (out[i] == index)
            return n;
    if (n < room)
        out[n++] = index;
    return n;
}

size_t fy_kvm_msrs_listed(int kvm_fd, bool tsc_aux, uint32_t *out, size_t room)
{
    union msr_list list;
    memset(&list, 0, sizeof list);
    list.head.nmsrs = MSR_LIST_MAX;
    size_t n = 0;
    if (ioctl(kvm_fd, KVM_GET_MSR_INDEX_LIST, &list) < 0)
        list.head.nmsrs = 0;
    bool deadline = false;
    for (uint32_t i = 0; i < list.head.nmsrs && i < MSR_LIST_MAX; i++) {
        deadline |= list.head.indices[i] == MSR_TSC_DEADLINE;
        if (!stays(list.head.indices[i]) && list.head.indices[i] != MSR_TSC_DEADLINE &&
            list.head.indices[i] != MSR_TSC_AUX)
            n = add(out, n, room, list.head.indices[i]);
    }
    for (size_t i = 0; i < sizeof mtrrs / sizeof mtrrs[0]; i++)
        n = add(out, n, room, mtrrs[i]);
    for (uint32_t i = 0; i < 4 * MCE_BANKS; i++)
        n = add(out, n, room, 0x400 + i);
    if (tsc_aux)
        n = add(out, n, room, MSR_TSC_AUX);
    /* The deadline is loaded last: it is compared with the TSC, and the LAPIC must be in its mode. */
    if (deadline)
        n = add(out, n, room, MSR_TSC_DEADLINE);
    return n;
}

/* Read every MSR of list and write it back, in as few calls as may be; refused[i]: KVM will not have list[i]
 * read or written. */
static void try_msrs(int fd, const uint32_t *list, size_t n, bool *refused)
{
    union many_msrs get, set;
    memset(&get, 0, sizeof get);
    memset(&set, 0, sizeof set);
    for (size_t done = 0; done < n;) {
        for (size_t i = done; i < n; i++)
            get.head.entries[i - done].index = list[i];
        get.head.nmsrs = (uint32_t)(n - done);
        int got = ioctl(fd, KVM_GET_MSRS, &get);
        got = got < 0 ? 0 : got;
        for (int at = 0; at < got;) {
            memcpy(set.head.entries, &get.head.entries[at], (size_t)(got - at) * sizeof set.head.entries[0]);
            set.head.nmsrs = (uint32_t)(got - at);
            int put = ioctl(fd, KVM_SET_MSRS, &set);
            at += put < 0 ? 0 : put;
            if (at < got)
                refused[done + (size_t)at++] = true;
        }
        done += (size_t)got;
        if (done < n)
            refused[done++] = true;
    }
}

int fy_kvm_msrs_choose(struct fy_kvm *k, struct fy_err *e)
{
    int fd = k->vcpus[0].fd;
    bool refused[FY_MSRS_MAX] = {false};
    uint64_t v;
    k->has_tsc_adjust = fy_kvm_msr_read(fd, MSR_TSC_ADJUST, &v) == 0;
    if (k->policy->n_msrs) {
        struct fy_err why = {.code = 0};
        if (k->policy->n_msrs > FY_MSRS_MAX)
            return fy_fail(e, FY_ECORRUPT, "CPU policy: %zu MSRs", k->policy->n_msrs);
        try_msrs(fd, k->policy->msrs, k->policy->n_msrs, refused);
        for (size_t i = 0; i < k->policy->n_msrs; i++) {
            k->msrs[k->msr_count++] = k->policy->msrs[i];
            if (refused[i])
                fy_reason_add(&why, FY_EREFUSED,
                              "MSR 0x%x travels with the guest and cannot be set on this host",
                              k->policy->msrs[i]);
        }
        if (why.code && e)
            *e = why;
        return why.code ? -1 : 0;
    }
    uint32_t listed[FY_MSRS_MAX];
    size_t n = fy_kvm_msrs_listed(k->kvm_fd, fy_cpu_has(k->policy, "rdtscp"), listed, FY_MSRS_MAX);
    try_msrs(fd, listed, n, refused);
    for (size_t i = 0; i < n; i++) {
        if (!refused[i])
            k->msrs[k->msr_count++] = listed[i];
        else
            fy_debug("MSR 0x%x: listed by KVM but cannot be read and written; it stays", listed[i]);
    }
    return 0;
}

int fy_kvm_msrs_get(struct fy_kvm *k, int fd, Ferry__Vcpu *v, struct fy_err *e)
{
    union many_msrs m;
    memset(&m, 0, sizeof m);
    m.head.nmsrs = (uint32_t)k->msr_count;
    for (size_t i = 0; i < k->msr_count; i++)
        m.head.entries[i].index = k->msrs[i];
    int got = ioctl(fd, KVM_GET_MSRS, &m);
    if (got < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_MSRS");
    if ((size_t)got != k->msr_count)
        return fy_fail(e, FY_EFAIL, "KVM cannot read MSR 0x%x", k->msrs[got]);
    v->msrs = calloc(k->msr_count + 1, sizeof *v->msrs);
    for (size_t i = 0; v->msrs && i < k->msr_count; i++) {
        Ferry__Msr *o = malloc(sizeof *o);
        if (!o)
            break;
        ferry__msr__init(o);
        o->index = m.head.entries[i].index;
        o->value = m.head.entries[i].data;
        v->msrs[v->n_msrs++] = o;
    }
    if (v->n_msrs != k->msr_count)
        return fy_fail(e, FY_ERESOURCE, "no memory for a vCPU's state");
    if (k->has_tsc_adjust && fy_kvm_msr_read(fd, MSR_TSC_ADJUST, &v->tsc_adjust) < 0)
        return fy_fail(e, FY_EFAIL, "KVM cannot read MSR 0x%x", MSR_TSC_ADJUST);
    return 0;
}

int fy_kvm_msrs_set(struct fy_kvm *k, int fd, const Ferry__Vcpu *v, struct fy_err *e)
{
    union many_msrs m;
    memset(&m, 0, sizeof m);
    if (v->n_msrs > FY_MSRS_MAX)
        return fy_fail(e, FY_ECORRUPT, "%zu MSRs", v->n_msrs);
    m.head.nmsrs = (uint32_t)v->n_msrs;
    for (size_t i = 0; i < v->n_msrs; i++) {
        m.head.entries[i].index = v->msrs[i]->index;
        m.head.entries[i].data = v->msrs[i]->value;
    }
    if ((k->has_tsc_adjust || v->tsc_adjust) && fy_kvm_msr_write(fd, MSR_TSC_ADJUST, v->tsc_adjust) < 0)
        return fy_fail(e, FY_ECORRUPT, "KVM refuses MSR 0x%x", MSR_TSC_ADJUST);
    int set = ioctl(fd, KVM_SET_MSRS, &m);
    if (set < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_SET_MSRS");
    if ((size_t)set != v->n_msrs)
        return fy_fail(e, FY_ECORRUPT, "KVM refuses the value 0x%llx of MSR 0x%x",
                       (unsigned long long)m.head.entries[set].data, m.head.entries[set].index);
    return 0;
}
