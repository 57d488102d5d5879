// SPDX-License-Identifier: Apache-2.0
/* One machine: memory, bus, chips, vCPUs. It can be built, booted, run, paused, reset, saved and loaded; who
 * may ask for that and when is hv/vm/life.h's business. Main thread only, unless said otherwise. */
#ifndef FERRY_VM_MACHINE_H
#define FERRY_VM_MACHINE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/base/loop.h"
#include "hv/cpu/cpu.h"
#include "hv/cpu/model.h"
#include "hv/dev/virtio_net.h"
#include "hv/mem/guest.h"
#include "hv/mem/logdirty.h"
#include "proto/machine.pb-c.h"

#define FY_MACHINE_REVISION 2 /* of new machines; 1, without PCI, runs too */

#define FY_DISKS_LIMIT 12

struct fy_machine;
struct fy_virtio;
struct fy_device;

struct fy_machine_config {
    const Ferry__Machine *desc; /* copied */
    int kvm_fd;                 /* the caller's */
    int mem_fd, mem_ro_fd;      /* taken over, also on failure */
    int kernel_fd, initrd_fd;   /* taken over, also on failure; -1: none */
    int firmware_fd;            /* the caller's; -1: none, or the machine is incoming */
    int nvram_fd;               /* the caller's, read and written for the machine's life; -1: none */
    int runlog_fd;              /* the caller's; -1: none */
    int console_log_fds[2];     /* the caller's, for the machine's life; [0] -1: none (hv/vm/conlog.h) */
    /* What the cards are joined to, by card and queue pair: FY_NICS_MAX rows, taken over, also on failure;
     * -1: none. NULL: all -1. */
    int (*nic_fds)[FY_NET_PAIRS_MAX];
    uint8_t run_id[16];
    bool incoming;
    struct fy_loop *loop;
    void *arg; /* of the calls below */
    /* What the guest wrote to its console and the output gate let out. Any thread, with the console lock
     * held. */
    void (*console_out)(void *arg, const uint8_t *buf, size_t len);
    /* Optional: a network card has lost its backend. Any thread, a device's lock held. */
    void (*nic_lost)(void *arg);
    /* Optional: a disk has lost its ferry-blk. Likewise. */
    void (*disk_lost)(void *arg);
    /* The console takes input again. Any thread. */
    void (*console_room)(void *arg);
    /* The guest has ended itself (fy_machine_end is not FY_END_NONE); all vCPUs are parked. Main thread. */
    void (*ended)(void *arg);
    /* The count of fy_machine_stop_at is reached (and no more asked for); parked. Main thread. */
    void (*reached)(void *arg);
    /* The guest's socket device asks for a connection to a port of the host: fy_machine_vsock_answer, once.
     * An I/O thread. NULL: nobody answers there. */
    void (*vsock_connect)(void *arg, uint32_t port, uint64_t id);
};

/* Check a description against this build and host without making anything: revision, sizes, devices, CPU
 * policy. FY_EREFUSED with every reason, a line each. A policy without CPUID is not checked but resolved by
 * fy_machine_complete. */
int fy_machine_check(const Ferry__Machine *desc, const struct fy_cpu_support *s, struct fy_err *e);

/* Whether the description names the software engine. Pure. */
bool fy_machine_is_soft(const Ferry__Machine *desc);

/* Fill in what a fresh machine leaves open: revision, CPU policy (from cpu.model), engine, devices. desc is
 * heap memory of protobuf-c's default allocator. */
int fy_machine_complete(Ferry__Machine *desc, const struct fy_cpu_support *s, struct fy_err *e);

/* Build it, vCPUs parked. *prealloc_ns is set where desc asks for prealloc. NULL on error. */
struct fy_machine *fy_machine_new(const struct fy_machine_config *c, uint64_t *prealloc_ns, struct fy_err *e);
void fy_machine_free(struct fy_machine *m);

/* Disks. Give the machine its disks' files, in the description's order: each is locked, against two users,
 * and must have the description's size. Takes the descriptors over, also on failure. All or none; a machine
 * that has its disks already keeps those. Paused. */
int fy_machine_take_disks(struct fy_machine *m, const int *fds, unsigned count, struct fy_err *e);
/* Flush every disk to stable storage and unlock it. On error some may be unlocked. Paused. */
int fy_machine_release_disks(struct fy_machine *m, struct fy_err *e);
/* Lock them again: FY_ESTATE while another has one. Repeat at will. Paused. */
int fy_machine_lock_disks(struct fy_machine *m, struct fy_err *e);
/* Begin to make durable what was written to the disks; does not wait. */
void fy_machine_write_back(struct fy_machine *m);
bool fy_machine_has_disks(const struct fy_machine *m);

struct fy_machine_disk {
    const char *id; /* the machine's */
    bool served;    /* by a ferry-blk; of a file the rest stays as it is */
    bool process, up;
    unsigned waits; /* requests that are not done */
    char why[256];  /* it is not up */
};
/* Of disk i; false when there is none. Main thread. */
bool fy_machine_disk_status(struct fy_machine *m, unsigned i, struct fy_machine_disk *s);
/* Disk i gets another ferry-blk, at the other end of sock, which is taken over, also on failure. FY_ESTATE
 * while it has one. Main thread. */
int fy_machine_attach_disk(struct fy_machine *m, unsigned i, int sock, struct fy_err *e);
struct fy_loop *fy_machine_loop(struct fy_machine *m);

/* Load the kernel and set the vCPUs to its entry; also after a reset. FY_EUNSUPPORTED where there is no
 * kernel. */
int fy_machine_boot(struct fy_machine *m, struct fy_err *e);
bool fy_machine_has_images(const struct fy_machine *m);
/* Power-on state of chips and vCPUs, then boot. Parked. */
int fy_machine_reset(struct fy_machine *m, struct fy_err *e);

/* Let the vCPUs run. handover_id: 16 bytes for the run log, or NULL. must_log: without its line in the run
 * log the guest is not run (-1, FY_ERESOURCE): the line is the only evidence that an incoming guest ran here.
 */
int fy_machine_run(struct fy_machine *m, const uint8_t *handover_id, bool must_log, struct fy_err *e);
/* Park every vCPU, pending accesses completed; devices are drained. Returns the time it took. Idempotent. */
uint64_t fy_machine_pause(struct fy_machine *m);
bool fy_machine_running(const struct fy_machine *m);
/* Wait until a vCPU has entered the guest since the machine was built, or the guest has ended. Returns the
 * time (CLOCK_MONOTONIC) of the first entry, 0 for none. Running. */
uint64_t fy_machine_first_run_ns(struct fy_machine *m);

/* How the guest ended by itself. A reset asked for is taken (and cleared) by fy_machine_reset. */
enum fy_end { FY_END_NONE, FY_END_POWER_OFF, FY_END_EXIT, FY_END_RESET, FY_END_CRASH };
enum fy_end fy_machine_end(struct fy_machine *m);
const char *fy_machine_report(const struct fy_machine *m); /* of a crash; valid once parked */
int fy_machine_exit_status(struct fy_machine *m);          /* FY_END_EXIT; else -1 */

/* The whole state but memory as a StateFile in a fresh malloc'd buffer. Parked. */
int fy_machine_save(struct fy_machine *m, uint8_t **buf, size_t *len, struct fy_err *e);
/* Parse, validate all, then commit. warning: FY_ERR_TEXT bytes, "" where there is none. On an error found
 * before the commit nothing has changed; on a later one the machine must not run. Parked. */
int fy_machine_load(struct fy_machine *m, const uint8_t *buf, size_t len, char *warning, struct fy_err *e);

/* Of a machine whose time is its count of instructions (docs/adr/0005-icount.md); FY_EUNSUPPORTED of another.
 * Parked. */
int fy_machine_place(struct fy_machine *m, struct fy_icount_place *out, struct fy_err *e);
/* The next run ends at `count`, or with `reached` called. One is set at a time; FY_ICOUNT_NEVER: none. */
int fy_machine_stop_at(struct fy_machine *m, uint64_t count, struct fy_err *e);

const Ferry__Machine *fy_machine_desc(const struct fy_machine *m); /* complete, with devices */
struct fy_gmem *fy_machine_memory(struct fy_machine *m);
struct fy_logdirty *fy_machine_logdirty(struct fy_machine *m);
/* vcpus numbers; false where the engine cannot tell. */
bool fy_machine_vcpu_dirty(struct fy_machine *m, uint64_t *pages);

struct fy_machine_times {
    uint64_t running_ns;  /* sum of the intervals in which vCPUs could run */
    uint64_t vcpu_cpu_ns; /* CPU time of vCPU threads */
    uint64_t resident;    /* bytes that the memfd holds */
};
void fy_machine_times(struct fy_machine *m, struct fy_machine_times *t);

/* Console. Output callbacks come with the lock held, so that scrollback and what follows fit together. */
void fy_machine_console_lock(struct fy_machine *m);
void fy_machine_console_unlock(struct fy_machine *m);
size_t fy_machine_scrollback(struct fy_machine *m, uint64_t after, uint8_t *buf, size_t room,
                             uint64_t *position);
/* To the virtio console once a driver has it, else to the serial port. */
size_t fy_machine_console_input(struct fy_machine *m, const uint8_t *buf, size_t len);
size_t fy_machine_console_room(struct fy_machine *m);
/* The MAC address of a card whose description has none: 02, then 40 bits of two CRC-32C over the guest's UUID
 * and the card's number. The same on every host, for the guest's life. Pure. */
void fy_nic_mac(const uint8_t uuid[16], unsigned index, uint8_t mac[6]);
/* Network cards (hv/dev/virtio_net.h), "net0" first. */
unsigned fy_machine_nics(struct fy_machine *m);
struct fy_device *fy_machine_nic(struct fy_machine *m, unsigned i);
/* Another limit (bytes/s each way; 0: none) for a card that is there; the description says so from now on, so
 * that it travels. */
void fy_machine_set_nic_rate(struct fy_machine *m, unsigned i, uint64_t rate);
/* Device i of the machine, NULL behind the last (fewer than FY_DEVICES_MAX). */
const struct fy_device *fy_machine_nth_device(const struct fy_machine *m, unsigned i);
#define FY_DEVICES_MAX 40
/* The socket device, or NULL. */
struct fy_virtio *fy_machine_vsock(struct fy_machine *m);
/* The memory balloon, or NULL. */
struct fy_virtio *fy_machine_balloon(struct fy_machine *m);
/* VM generation ID (FY_VMGENID_BYTES), of machines that have one, else FY_EUNSUPPORTED. new_generation: this
 * guest is a copy of another from now on, and is told when it goes on; parked. */
int fy_machine_generation(struct fy_machine *m, uint8_t id[16], struct fy_err *e);
int fy_machine_new_generation(struct fy_machine *m, struct fy_err *e);
void fy_machine_power_button(struct fy_machine *m);

#endif
