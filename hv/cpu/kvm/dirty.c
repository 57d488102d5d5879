// SPDX-License-Identifier: Apache-2.0
/* Memory slots and KVM's two dirty logs as sources for hv/mem/logdirty.h (Linux
 * Documentation/virt/kvm/api.rst: KVM_GET_DIRTY_LOG, KVM_CLEAR_DIRTY_LOG, KVM_CAP_DIRTY_LOG_RING). */
#include <errno.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>

#include "hv/base/bitmap.h"
#include "hv/base/checked.h"
#include "hv/base/log.h"
#include "hv/cpu/kvm/internal.h"

int fy_kvm_slots_set(struct fy_kvm *k, bool log, struct fy_err *e)
{
    for (unsigned i = 0; k->gmem && i < k->gmem->ram_slots; i++) {
        const struct fy_slot *s = &k->gmem->slots[i];
        struct kvm_userspace_memory_region r = {
            .slot = i,
            .flags = log ? KVM_MEM_LOG_DIRTY_PAGES : 0,
            .guest_phys_addr = s->gpa,
            .memory_size = s->bytes,
            .userspace_addr = (uint64_t)(uintptr_t)s->host,
        };
        if (ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0)
            return fy_fail_errno(e, FY_ERESOURCE, errno, "KVM refuses memory slot %u%s", i,
                                 log ? " with logging" : "");
    }
    return 0;
}

int fy_kvm_roms_set(struct fy_kvm *k, struct fy_err *e)
{
    for (unsigned i = 0; k->gmem && i < k->gmem->rom_count; i++) {
        const struct fy_slot *s = &k->gmem->roms[i];
        struct kvm_userspace_memory_region r = {
            .slot = FY_SLOTS_MAX + i,
            .flags = KVM_MEM_READONLY,
            .guest_phys_addr = s->gpa,
            .memory_size = s->bytes,
            .userspace_addr = (uint64_t)(uintptr_t)s->host,
        };
        if (!fy_kvm_cap(k->vm_fd, KVM_CAP_READONLY_MEM))
            return fy_fail(e, FY_EUNSUPPORTED, "this host's KVM has no read-only memory: no firmware runs");
        if (ioctl(k->vm_fd, KVM_SET_USER_MEMORY_REGION, &r) < 0)
            return fy_fail_errno(e, FY_ERESOURCE, errno, "KVM refuses the firmware's memory");
    }
    return 0;
}

static uint64_t slot_bytes(const struct fy_kvm *k, unsigned slot)
{
    return k->gmem->slots[slot].bytes / FY_PAGE_SIZE / 8;
}

static int ring_enable(struct fy_kvm *k, struct fy_err *e)
{
    for (unsigned i = 0; i < k->gmem->slot_count; i++) {
        void *p = mmap(NULL, slot_bytes(k, i), PROT_READ | PROT_WRITE,
                       MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (p == MAP_FAILED) {
            fy_kvm_ring_free(k);
            return fy_fail_errno(e, FY_ERESOURCE, errno, "no memory for the dirty log");
        }
        k->ring_pending[i] = p;
    }
    for (unsigned i = 0; i < k->vcpu_count; i++)
        k->vcpus[i].ring_pages = 0;
    k->ring_on = true;
    return 0;
}

void fy_kvm_ring_free(struct fy_kvm *k)
{
    for (unsigned i = 0; i < FY_SLOTS_MAX; i++) {
        if (k->ring_pending[i])
            munmap(k->ring_pending[i], slot_bytes(k, i));
        k->ring_pending[i] = NULL;
    }
    k->ring_on = false;
}

static int dirty_enable(void *arg, bool *initially_set, struct fy_err *e)
{
    struct fy_kvm *k = arg;
    *initially_set = k->manual_protect & KVM_DIRTY_LOG_INITIALLY_SET;
    if (k->ring_entries) {
        pthread_mutex_lock(&k->ring_lock);
        int r = ring_enable(k, e);
        pthread_mutex_unlock(&k->ring_lock);
        if (r < 0)
            return -1;
    }
    if (fy_kvm_slots_set(k, true, e) < 0) {
        fy_kvm_slots_set(k, false, NULL);
        pthread_mutex_lock(&k->ring_lock);
        fy_kvm_ring_free(k);
        pthread_mutex_unlock(&k->ring_lock);
        return -1;
    }
    return 0;
}

static void dirty_disable(void *arg)
{
    struct fy_kvm *k = arg;
    fy_kvm_slots_set(k, false, NULL);
    if (!k->ring_entries)
        return;
    /* What is still in the rings must not meet the next logging as news. */
    fy_kvm_ring_harvest(k);
    pthread_mutex_lock(&k->ring_lock);
    fy_kvm_ring_free(k);
    pthread_mutex_unlock(&k->ring_lock);
}

int fy_kvm_ring_map(struct fy_kvm *k, unsigned vcpu, struct fy_err *e)
{
    struct fy_kvm_vcpu *v = &k->vcpus[vcpu];
    void *p = mmap(NULL, k->ring_entries * sizeof *v->ring, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd,
                   KVM_DIRTY_LOG_PAGE_OFFSET * FY_PAGE_SIZE);
    if (p == MAP_FAILED)
        return fy_fail_errno(e, FY_ERESOURCE, errno, "cannot map the dirty ring of vCPU %u", vcpu);
    v->ring = p;
    return 0;
}

/* Collect one vCPU's ring. Ring lock held. */
static uint64_t harvest_one(struct fy_kvm *k, struct fy_kvm_vcpu *v)
{
    uint64_t n = 0;
    for (;;) {
        struct kvm_dirty_gfn *g = &v->ring[v->ring_next & (k->ring_entries - 1)];
        uint32_t flags = __atomic_load_n(&g->flags, __ATOMIC_ACQUIRE);
        if ((flags & KVM_DIRTY_GFN_F_MASK) != KVM_DIRTY_GFN_F_DIRTY)
            return n;
        uint32_t slot = g->slot & 0xffff;
        if (k->ring_on && slot < k->gmem->slot_count && g->offset < slot_bytes(k, slot) * 8)
            fy_bit_set(k->ring_pending[slot], g->offset);
        __atomic_store_n(&g->flags, KVM_DIRTY_GFN_F_RESET, __ATOMIC_RELEASE);
        v->ring_next++;
        v->ring_pages++;
        n++;
    }
}

static void harvest_locked(struct fy_kvm *k)
{
    uint64_t n = 0;
    for (unsigned i = 0; i < k->vcpu_count; i++)
        if (k->vcpus[i].ring)
            n += harvest_one(k, &k->vcpus[i]);
    /* Re-protects the pages: only then may they be read as clean. The kernel may stop early for a signal (a
     * kick), and a vCPU whose ring stays full would come back here for ever. */
    k->ring_unreset += n;
    while (k->ring_unreset) {
        int done = ioctl(k->vm_fd, KVM_RESET_DIRTY_RINGS, 0);
        if (done < 0 && errno == EINTR)
            continue;
        if (done <= 0) {
            fy_warn("KVM_RESET_DIRTY_RINGS leaves %llu pages: %s", (unsigned long long)k->ring_unreset,
                    done < 0 ? strerror(errno) : "nothing to reset");
            break;
        }
        k->ring_unreset -= FY_MIN((uint64_t)done, k->ring_unreset);
    }
}

void fy_kvm_ring_harvest(struct fy_kvm *k)
{
    pthread_mutex_lock(&k->ring_lock);
    harvest_locked(k);
    pthread_mutex_unlock(&k->ring_lock);
}

static int ring_fetch(struct fy_kvm *k, unsigned slot, uint64_t *mask)
{
    pthread_mutex_lock(&k->ring_lock);
    harvest_locked(k);
    uint64_t *pending = k->ring_pending[slot];
    for (uint64_t w = 0; pending && w < slot_bytes(k, slot) / 8; w++) {
        if (!pending[w])
            continue;
        mask[w] |= pending[w];
        pending[w] = 0;
    }
    pthread_mutex_unlock(&k->ring_lock);
    return 0;
}

static int dirty_fetch(void *arg, unsigned slot, uint64_t *mask, bool *cleared, struct fy_err *e)
{
    struct fy_kvm *k = arg;
    if (k->ring_entries) {
        *cleared = true;
        return ring_fetch(k, slot, mask);
    }
    /* The firmware area: no vCPU writes it. */
    if (slot >= k->gmem->ram_slots) {
        *cleared = true;
        return 0;
    }
    /* Without manual re-protection the kernel clears and protects what it reports. */
    *cleared = !k->manual_protect;
    struct kvm_dirty_log log = {.slot = slot, .dirty_bitmap = mask};
    if (ioctl(k->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
        return fy_fail_errno(e, FY_EFAIL, errno, "KVM_GET_DIRTY_LOG");
    return 0;
}

static int dirty_clear(void *arg, unsigned slot, uint64_t first, uint64_t count, const uint64_t *mask,
                       struct fy_err *e)
{
    struct fy_kvm *k = arg;
    if (slot >= k->gmem->ram_slots)
        return 0;
    struct kvm_clear_dirty_log c = {
        .slot = slot,
        .num_pages = (uint32_t)count,
        .first_page = first,
        .dirty_bitmap = (void *)(uintptr_t)mask,
    };
    return ioctl(k->vm_fd, KVM_CLEAR_DIRTY_LOG, &c) < 0
               ? fy_fail_errno(e, FY_EFAIL, errno, "KVM_CLEAR_DIRTY_LOG")
               : 0;
}

const struct fy_dirty_ops fy_kvm_dirty_ops = {
    .enable = dirty_enable,
    .disable = dirty_disable,
    .fetch = dirty_fetch,
    .clear = dirty_clear,
};

bool fy_kvm_vcpu_dirty(struct fy_engine *en, uint64_t *pages)
{
    struct fy_kvm *k = FY_KVM(en);
    if (!k->ring_entries)
        return false;
    pthread_mutex_lock(&k->ring_lock);
    harvest_locked(k);
    for (unsigned i = 0; i < k->vcpu_count; i++)
        pages[i] = k->vcpus[i].ring_pages;
    pthread_mutex_unlock(&k->ring_lock);
    return true;
}
