// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_CPU_KVM_INTERNAL_H
#define FERRY_CPU_KVM_INTERNAL_H

#include <linux/kvm.h>
#include <pthread.h>
#include <sys/types.h>

#include "hv/cpu/kvm/kvm.h"

#define FY_MSRS_MAX 256

struct fy_kvm_vcpu {
    int fd;
    struct kvm_run *run;
    pid_t tid; /* atomic; 0 before attach */
    Ferry__Vcpu *pristine;
    /* the dirty ring, where there is one */
    struct kvm_dirty_gfn *ring;
    uint32_t ring_next;
    uint64_t ring_pages; /* entries harvested since logging began */
};

struct fy_kvm {
    struct fy_engine base;
    int kvm_fd; /* our own duplicate */
    int vm_fd;
    struct fy_gmem *gmem;
    const struct fy_bus *bus;
    const Ferry__CpuPolicy *policy;
    unsigned vcpu_count;
    struct fy_kvm_vcpu vcpus[FY_VCPUS_LIMIT];
    size_t run_size;
    uint32_t msrs[FY_MSRS_MAX];
    size_t msr_count;
    bool has_sregs2, has_payload, has_triple_fault, has_xcrs, has_xsave2;
    bool has_tsc_adjust;
    bool tsc_offsets; /* the TSC offset of a vCPU can be set here */
    bool tsc_scaled;  /* the guest's TSC runs at another rate than the host's */
    uint32_t host_khz;
    unsigned manual_protect; /* KVM_DIRTY_LOG_* flags in use */
    uint32_t ring_entries;   /* 0: bitmap */
    pthread_mutex_t ring_lock;
    uint64_t *ring_pending[FY_SLOTS_MAX];
    uint64_t ring_unreset; /* harvested, not yet reset by the kernel */
    bool ring_on;
    Ferry__IrqChips *pristine_chips;
    Ferry__Pit *pristine_pit;
};

#define FY_KVM(en) ((struct fy_kvm *)(void *)(en))

int fy_kvm_cap(int fd, unsigned cap); /* 0 where it is not there */

/* vcpu.c */
int fy_kvm_vcpu_create(struct fy_kvm *k, unsigned i, struct fy_err *e);
void fy_kvm_vcpu_destroy(struct fy_kvm *k, unsigned i);
void fy_kvm_vcpu_attach(struct fy_engine *en, unsigned vcpu);
enum fy_vcpu_end fy_kvm_vcpu_run(struct fy_engine *en, unsigned vcpu, char *report);
void fy_kvm_vcpu_kick(struct fy_engine *en, unsigned vcpu);
void fy_kvm_vcpu_unkick(struct fy_engine *en, unsigned vcpu);
void fy_kvm_vcpu_settle(struct fy_engine *en, unsigned vcpu);

/* reset.c */
int fy_kvm_vcpu_reset(struct fy_engine *en, unsigned vcpu, const struct fy_cpu_boot *boot, struct fy_err *e);

/* regs.c */
Ferry__Vcpu *fy_kvm_vcpu_save(struct fy_engine *en, unsigned vcpu, struct fy_err *e);
int fy_kvm_vcpu_load(struct fy_engine *en, unsigned vcpu, const Ferry__Vcpu *s, struct fy_err *e);

/* events.c */
int fy_kvm_events_get(struct fy_kvm *k, int fd, Ferry__Vcpu *v, struct fy_err *e);
int fy_kvm_events_set(struct fy_kvm *k, int fd, const Ferry__Vcpu *v, struct fy_err *e);

/* msr.c */
int fy_kvm_msrs_choose(struct fy_kvm *k, struct fy_err *e);
int fy_kvm_msrs_get(struct fy_kvm *k, int fd, Ferry__Vcpu *v, struct fy_err *e);
int fy_kvm_msrs_set(struct fy_kvm *k, int fd, const Ferry__Vcpu *v, struct fy_err *e);
int fy_kvm_msr_read(int fd, uint32_t index, uint64_t *value);
int fy_kvm_msr_write(int fd, uint32_t index, uint64_t value);
/* The MSRs that this KVM lists and that would travel, without trying them. */
size_t fy_kvm_msrs_listed(int kvm_fd, bool tsc_aux, uint32_t *out, size_t room);

/* irqchip.c */
int fy_kvm_chips_save(struct fy_engine *en, Ferry__IrqChips **chips, Ferry__Pit **pit, struct fy_err *e);
int fy_kvm_chips_load(struct fy_engine *en, const Ferry__IrqChips *chips, const Ferry__Pit *pit,
                      struct fy_err *e);
int fy_kvm_chips_reset(struct fy_engine *en, struct fy_err *e);
void fy_kvm_irq(struct fy_engine *en, unsigned gsi, bool level);
void fy_kvm_msi(struct fy_engine *en, uint64_t address, uint32_t data);
bool fy_kvm_doorbell(struct fy_engine *en, uint64_t gpa, int eventfd, bool on);

/* clock.c */
bool fy_kvm_tsc_can_offset(int vcpu_fd);
int fy_kvm_tsc_setup(struct fy_kvm *k, unsigned vcpu, struct fy_err *e);
int fy_kvm_clock_save(struct fy_engine *en, Ferry__Clock *clock, uint64_t *tsc, struct fy_err *e);
int fy_kvm_clock_load(struct fy_engine *en, const Ferry__Clock *clock, const uint64_t *tsc,
                      uint64_t *elapsed_ns, char *warning, struct fy_err *e);
void fy_kvm_clock_resumed(struct fy_engine *en);

/* dirty.c */
extern const struct fy_dirty_ops fy_kvm_dirty_ops;
int fy_kvm_slots_set(struct fy_kvm *k, bool log, struct fy_err *e);
/* Map the ROMs, for reading and executing; writes leave as MMIO. Once. */
int fy_kvm_roms_set(struct fy_kvm *k, struct fy_err *e);
int fy_kvm_ring_map(struct fy_kvm *k, unsigned vcpu, struct fy_err *e);
void fy_kvm_ring_harvest(struct fy_kvm *k);
void fy_kvm_ring_free(struct fy_kvm *k);
bool fy_kvm_vcpu_dirty(struct fy_engine *en, uint64_t *pages);

/* ring0.c: measure ring 0, in millions of instructions a second, and whether it runs what kernels execute
 * while they boot; -1: it runs nothing. Leaves the vCPU unfit for anything else. */
int fy_kvm_ring0(int kvm_fd, int vm, int vcpu, double *mips, bool *complete);

/* report.c */
void fy_kvm_report(struct fy_kvm *k, unsigned vcpu, const char *why, char *report);

#endif
