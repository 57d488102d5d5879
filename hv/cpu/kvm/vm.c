// SPDX-License-Identifier: Apache-2.0
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>

#include "hv/base/checked.h"
#include "hv/base/io.h"
#include "hv/base/log.h"
#include "hv/cpu/kvm/internal.h"

/* Below the firmware's place at 4 GiB (FY_FIRMWARE_MAX) and clear of the APICs and PCI: where KVM puts pages
 * of its own. */
#define IDENTITY_MAP_ADDR 0xfeffc000ull
#define TSS_ADDR 0xfeffd000ull

int fy_kvm_cap(int fd, unsigned cap)
{
    int r = ioctl(fd, KVM_CHECK_EXTENSION, cap);
    return r < 0 ? 0 : r;
}

static bool enable(struct fy_kvm *k, uint32_t cap, uint64_t arg)
{
    struct kvm_enable_cap c = {.cap = cap, .args = {arg}};
    return fy_kvm_cap(k->vm_fd, cap) && ioctl(k->vm_fd, KVM_ENABLE_CAP, &c) == 0;
}

static int set_dirty_mode(struct fy_kvm *k, uint32_t ring, struct fy_err *e)
{
    if (ring) {
        uint64_t bytes = (uint64_t)ring * sizeof(struct kvm_dirty_gfn);
        uint64_t most = (uint64_t)fy_kvm_cap(k->vm_fd, KVM_CAP_DIRTY_LOG_RING);
        if (!most)
            most = (uint64_t)fy_kvm_cap(k->vm_fd, KVM_CAP_DIRTY_LOG_RING_ACQ_REL);
        if (!most)
            return fy_fail(e, FY_EUNSUPPORTED, "this host's KVM has no dirty ring");
        if (ring & (ring - 1) || bytes > most || bytes < 4096)
            return fy_fail(e, FY_EUSAGE, "a dirty ring has a power of two of entries, 256 to %llu here",
                           (unsigned long long)(most / sizeof(struct kvm_dirty_gfn)));
        if (!enable(k, KVM_CAP_DIRTY_LOG_RING, bytes) && !enable(k, KVM_CAP_DIRTY_LOG_RING_ACQ_REL, bytes))
            return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "KVM refuses a dirty ring of %u entries", ring);
        k->ring_entries = ring;
        return 0;
    }
    unsigned flags = (unsigned)fy_kvm_cap(k->vm_fd, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2) &
                     (KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE | KVM_DIRTY_LOG_INITIALLY_SET);
    if (flags && enable(k, KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2, flags))
        k->manual_protect = flags;
    else
        fy_warn("this host's KVM cannot re-protect pages in ranges; every look at the dirty log costs more");
    return 0;
}

static int make_vm(struct fy_kvm *k, const struct fy_engine_config *config, struct fy_err *e)
{
    if (ioctl(k->kvm_fd, KVM_GET_API_VERSION, 0) != KVM_API_VERSION)
        return fy_fail(e, FY_EUNSUPPORTED, "KVM has another API version");
    if (!fy_kvm_cap(k->kvm_fd, KVM_CAP_IMMEDIATE_EXIT) || !fy_kvm_cap(k->kvm_fd, KVM_CAP_IRQCHIP) ||
        !fy_kvm_cap(k->kvm_fd, KVM_CAP_PIT2) || !fy_kvm_cap(k->kvm_fd, KVM_CAP_VCPU_EVENTS))
        return fy_fail(e, FY_EUNSUPPORTED, "this host's KVM lacks immediate exit, interrupt chips or events");
    do
        k->vm_fd = ioctl(k->kvm_fd, KVM_CREATE_VM, 0);
    while (k->vm_fd < 0 && errno == EINTR);
    if (k->vm_fd < 0)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "KVM cannot make a VM");
    uint64_t identity = IDENTITY_MAP_ADDR;
    struct kvm_pit_config pit = {.flags = KVM_PIT_SPEAKER_DUMMY};
    if (ioctl(k->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0 ||
        ioctl(k->vm_fd, KVM_SET_TSS_ADDR, TSS_ADDR) < 0 || ioctl(k->vm_fd, KVM_CREATE_IRQCHIP, 0) < 0 ||
        ioctl(k->vm_fd, KVM_CREATE_PIT2, &pit) < 0)
        return fy_fail_errno(e, FY_EUNSUPPORTED, errno, "KVM cannot make interrupt chips");
    if (!enable(k, KVM_CAP_EXIT_ON_EMULATION_FAILURE, 1))
        fy_info("KVM does not report emulation failures in full");
#ifdef KVM_CAP_PMU_CAPABILITY
    enable(k, KVM_CAP_PMU_CAPABILITY, KVM_PMU_CAP_DISABLE);
#endif
    k->has_payload = enable(k, KVM_CAP_EXCEPTION_PAYLOAD, 1);
    k->has_triple_fault = enable(k, KVM_CAP_X86_TRIPLE_FAULT_EVENT, 1);
    k->has_sregs2 = fy_kvm_cap(k->kvm_fd, KVM_CAP_SREGS2);
    k->has_xcrs = fy_kvm_cap(k->kvm_fd, KVM_CAP_XCRS);
    k->has_xsave2 = fy_kvm_cap(k->vm_fd, KVM_CAP_XSAVE2) > 0;
    if (set_dirty_mode(k, config->dirty_ring, e) < 0)
        return -1;
    return fy_kvm_slots_set(k, false, e) < 0 ? -1 : fy_kvm_roms_set(k, e);
}

static int keep_pristine(struct fy_kvm *k, struct fy_err *e)
{
    for (unsigned i = 0; i < k->vcpu_count; i++) {
        k->vcpus[i].pristine = fy_kvm_vcpu_save(&k->base, i, e);
        if (!k->vcpus[i].pristine)
            return -1;
    }
    return fy_kvm_chips_save(&k->base, &k->pristine_chips, &k->pristine_pit, e);
}

static void kvm_free(struct fy_engine *en)
{
    struct fy_kvm *k = FY_KVM(en);
    for (unsigned i = 0; i < FY_VCPUS_LIMIT; i++)
        fy_kvm_vcpu_destroy(k, i);
    fy_kvm_ring_free(k);
    pthread_mutex_destroy(&k->ring_lock);
    if (k->pristine_chips)
        ferry__irq_chips__free_unpacked(k->pristine_chips, NULL);
    if (k->pristine_pit)
        ferry__pit__free_unpacked(k->pristine_pit, NULL);
    fy_close(&k->vm_fd);
    fy_close(&k->kvm_fd);
    free(k);
}

static const uint32_t *kvm_msrs(struct fy_engine *en, size_t *count)
{
    *count = FY_KVM(en)->msr_count;
    return FY_KVM(en)->msrs;
}

static const struct fy_engine_ops ops = {
    .name = "kvm",
    .free = kvm_free,
    .vcpu_attach = fy_kvm_vcpu_attach,
    .vcpu_run = fy_kvm_vcpu_run,
    .vcpu_kick = fy_kvm_vcpu_kick,
    .vcpu_unkick = fy_kvm_vcpu_unkick,
    .vcpu_settle = fy_kvm_vcpu_settle,
    .vcpu_reset = fy_kvm_vcpu_reset,
    .vcpu_save = fy_kvm_vcpu_save,
    .vcpu_load = fy_kvm_vcpu_load,
    .chips_save = fy_kvm_chips_save,
    .chips_load = fy_kvm_chips_load,
    .chips_reset = fy_kvm_chips_reset,
    .clock_save = fy_kvm_clock_save,
    .clock_load = fy_kvm_clock_load,
    .clock_resumed = fy_kvm_clock_resumed,
    .msrs = kvm_msrs,
    .irq = fy_kvm_irq,
    .msi = fy_kvm_msi,
    .doorbell = fy_kvm_doorbell,
    .dirty = &fy_kvm_dirty_ops,
    .vcpu_dirty = fy_kvm_vcpu_dirty,
};

struct fy_engine *fy_kvm_engine_new(int kvm_fd, const struct fy_engine_config *config, struct fy_err *e)
{
    struct fy_kvm *k = calloc(1, sizeof *k);
    if (!k) {
        fy_fail(e, FY_ERESOURCE, "no memory for the KVM engine");
        return NULL;
    }
    k->base.ops = &ops;
    k->vm_fd = -1;
    for (unsigned i = 0; i < FY_VCPUS_LIMIT; i++)
        k->vcpus[i].fd = -1;
    pthread_mutex_init(&k->ring_lock, NULL);
    k->gmem = config->gmem;
    k->bus = config->bus;
    k->policy = config->policy;
    k->vcpu_count = config->vcpus;
    k->kvm_fd = fy_dup(kvm_fd);
    if (k->kvm_fd < 0) {
        fy_fail_errno(e, FY_EUNSUPPORTED, errno, "no KVM device");
        goto fail;
    }
    if (config->vcpus == 0 || config->vcpus > FY_VCPUS_LIMIT) {
        fy_fail(e, FY_EUSAGE, "%u vCPUs: 1 to %u", config->vcpus, FY_VCPUS_LIMIT);
        goto fail;
    }
    if (make_vm(k, config, e) < 0)
        goto fail;
    k->run_size = (size_t)FY_MAX(ioctl(k->kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0), 4096);
    for (unsigned i = 0; i < k->vcpu_count; i++)
        if (fy_kvm_vcpu_create(k, i, e) < 0 || (i == 0 && fy_kvm_msrs_choose(k, e) < 0))
            goto fail;
    if (keep_pristine(k, e) < 0)
        goto fail;
    return &k->base;
fail:
    kvm_free(&k->base);
    return NULL;
}
