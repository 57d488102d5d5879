// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_VM_INTERNAL_H
#define FERRY_VM_INTERNAL_H

#include <pthread.h>

#include "hv/cpu/cpu.h"
#include "hv/dev/chips.h"
#include "hv/dev/gate.h"
#include "hv/dev/platform.h"
#include "hv/dev/virtio_devices.h"
#include "hv/dev/virtio_net.h"
#include "hv/vm/conlog.h"
#include "hv/vm/machine.h"

/* The chips that every machine has, by their place in `devices`; the others follow. */
enum { DEV_CONSOLE, DEV_SERIAL, DEV_RTC, DEV_PM, DEV_FIXED };

struct fy_vcpu_thread {
    struct fy_machine *m;
    unsigned index;
    pthread_t id;
    bool started;
    bool parked; /* under m->lock */
};

struct fy_machine {
    Ferry__Machine *desc;
    struct fy_gmem *gmem;
    struct fy_bus *bus;
    struct fy_engine *engine;
    struct fy_logdirty *logdirty;
    struct fy_device devices[FY_DEVICES_MAX];
    unsigned device_count;
    struct fy_dev_host host;
    struct fy_virtio *balloon, *vsock, *vconsole; /* NULL: none */
    struct fy_dev_host serial_host;               /* as `host`, but for the console */
    struct fy_pci *pci;                           /* NULL: revision 1 */
    struct fy_iothread *io;                       /* of the devices that have little to do */
    struct fy_device *nics[FY_NICS_MAX];
    int nic_fds[FY_NICS_MAX][FY_NET_PAIRS_MAX]; /* not yet a backend's */
    void (*nic_lost)(void *arg);
    void (*disk_lost)(void *arg);
    struct fy_device *disks[FY_DISKS_MAX];
    unsigned disk_count;
    struct fy_conlog *conlog; /* NULL: none */
    struct fy_gate *gate;     /* what goes out of the machine passes it */
    struct fy_loop *loop;
    int kernel_fd, initrd_fd;
    int nvram_fd; /* the caller's; -1: none */
    int runlog_fd;
    uint8_t run_id[16];
    void *arg;
    void (*console_out)(void *arg, const uint8_t *buf, size_t len);
    void (*console_room)(void *arg);
    void (*ended)(void *arg);
    void (*reached)(void *arg);
    void (*vsock_connect)(void *arg, uint32_t port, uint64_t id);

    pthread_mutex_t lock;
    pthread_cond_t wake;   /* `run` or `quit` became true */
    pthread_cond_t parked; /* a thread parked, entered, or the guest ended */
    bool run, quit;
    bool at_stop; /* the vCPU stands at the count of fy_machine_stop_at */
    unsigned parked_count;
    uint64_t first_run_ns;
    enum fy_end end;
    int exit_status;
    char report[FY_REPORT_MAX];
    struct fy_vcpu_thread threads[FY_VCPUS_LIMIT];
    unsigned vcpus;

    /* main thread */
    bool running; /* between the run log's enter and leave */
    uint64_t running_since, running_ns;
    uint8_t handover_id[16];
    bool has_handover_id;

    /* The devices' clock: CLOCK_MONOTONIC + offset, or `frozen_ns` while paused. Atomic. */
    int64_t clock_offset;
    uint64_t clock_frozen_ns;
    bool clock_frozen;
};

/* nics.c. complete: fill in addresses. check: reasons against what the description says of cards. expect: is
 * id one of them? make: on the bus, from nic_fds. close: descriptors that nobody took. */
int fy_nics_complete(Ferry__Machine *d, struct fy_err *e);
void fy_nics_check(const Ferry__Machine *d, struct fy_err *why);
bool fy_nics_expect(const Ferry__Machine *d, const char *id);
int fy_nics_make(struct fy_machine *m, struct fy_err *e);
void fy_nics_close(struct fy_machine *m);

/* run.c */
int fy_machine_start_threads(struct fy_machine *m, struct fy_err *e);
void fy_machine_stop_threads(struct fy_machine *m);
/* Any thread: the guest ends itself. The first reason counts. */
void fy_machine_request_end(struct fy_machine *m, enum fy_end end, int status, const char *report);

/* disks.c */
int fy_machine_make_disks(struct fy_machine *m, struct fy_err *e);
/* FY_ESTATE: requests stand that no state would have. Paused. */
int fy_machine_disks_quiet(struct fy_machine *m, struct fy_err *e);
/* What in the description's disks cannot be. Pure. */
void fy_machine_check_disks(const Ferry__Machine *d, struct fy_err *why);

/* chips.c */
int fy_machine_make_chips(struct fy_machine *m, struct fy_err *e);
/* Devices stop and go on, in that order around a pause of the vCPUs. */
void fy_machine_pause_devices(struct fy_machine *m);
void fy_machine_resume_devices(struct fy_machine *m);
int fy_machine_list_devices(Ferry__Machine *desc, const struct fy_device *devices, unsigned count,
                            struct fy_err *e);
struct fy_device *fy_machine_device(struct fy_machine *m, const char *id);
uint64_t fy_machine_guest_ns(struct fy_machine *m);
/* struct fy_engine_config's alarm, with the machine as arg. */
void fy_machine_alarm(void *machine);

#endif
