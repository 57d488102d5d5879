// SPDX-License-Identifier: Apache-2.0
/* An engine runs the vCPUs and the interrupt chips of one machine: `kvm` or `soft`. The machine calls it
 * through this table and knows nothing else of it. */
#ifndef FERRY_CPU_CPU_H
#define FERRY_CPU_CPU_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "hv/mem/bus.h"
#include "hv/mem/guest.h"
#include "hv/mem/logdirty.h"
#include "proto/machine.pb-c.h"
#include "proto/state.pb-c.h"

#define FY_VCPUS_LIMIT 64
#define FY_REPORT_MAX 4096

struct fy_engine_config {
    struct fy_gmem *gmem;           /* outlives the engine */
    const struct fy_bus *bus;       /* outlives the engine; filled before the first run */
    unsigned vcpus;                 /* 1..FY_VCPUS_LIMIT */
    const Ferry__CpuPolicy *policy; /* resolved and checked; outlives the engine */
    uint32_t dirty_ring;            /* entries a vCPU, 0: bitmap */
    /* Deterministic runs (docs/adr/0005-icount.md): virtual nanoseconds an instruction takes, 0: the host's
     * time. One vCPU, `soft` only. */
    uint32_t icount_ns;
    uint64_t icount_seed;
    /* With icount_ns: the time asked for by icount->set_alarm has come. The vCPU's thread, between two
     * instructions; may set the next. */
    void (*alarm)(void *arg);
    void *alarm_arg;
};

/* How a vCPU starts, beside its reset values: in flat 32-bit protected mode, unless said otherwise. */
struct fy_cpu_boot {
    bool at_reset; /* the reset vector, in real mode; the rest is not looked at */
    bool real;     /* real mode: CS is real_cs, all other segments real_ds */
    bool long_mode;
    uint16_t real_cs, real_ds;
    uint64_t rax;
    uint64_t rip, rsp, rbx, rsi, cr3;
    uint64_t gdt_base;
    uint16_t gdt_limit;
};

enum fy_vcpu_end {
    FY_VCPU_KICKED,  /* asked to leave; a port or MMIO access may be half done until settle() */
    FY_VCPU_STOPPED, /* at the count of icount->stop_at */
    FY_VCPU_CRASHED  /* the guest cannot go on; the report says why */
};

struct fy_engine;

/* "Parked": the vCPU's thread is not inside run() and will not enter it. */
struct fy_engine_ops {
    const char *name;
    void (*free)(struct fy_engine *en);

    /* On the vCPU's thread, once, before run(). */
    void (*vcpu_attach)(struct fy_engine *en, unsigned vcpu);
    /* Run until kicked or crashed; port and MMIO accesses go to the bus. report: FY_REPORT_MAX bytes, written
     * on a crash. The vCPU's thread. */
    enum fy_vcpu_end (*vcpu_run)(struct fy_engine *en, unsigned vcpu, char *report);
    /* Make run() return soon, also one that begins later, until unkick. Any thread. */
    void (*vcpu_kick)(struct fy_engine *en, unsigned vcpu);
    void (*vcpu_unkick)(struct fy_engine *en, unsigned vcpu);
    /* Complete a pending port or MMIO access. Kicked; the vCPU's thread. */
    void (*vcpu_settle)(struct fy_engine *en, unsigned vcpu);

    /* All below: every vCPU parked, the main thread. */

    /* Power-on state; boot NULL: an application processor that waits for INIT. */
    int (*vcpu_reset)(struct fy_engine *en, unsigned vcpu, const struct fy_cpu_boot *boot, struct fy_err *e);
    /* A fresh message (ferry__vcpu__free_unpacked), but for `tsc`, which clock_save gives. */
    Ferry__Vcpu *(*vcpu_save)(struct fy_engine *en, unsigned vcpu, struct fy_err *e);
    /* Load a message that fy_vcpu_validate has passed. After clock_load. On error the machine must not run.
     */
    int (*vcpu_load)(struct fy_engine *en, unsigned vcpu, const Ferry__Vcpu *state, struct fy_err *e);

    int (*chips_save)(struct fy_engine *en, Ferry__IrqChips **chips, Ferry__Pit **pit, struct fy_err *e);
    int (*chips_load)(struct fy_engine *en, const Ferry__IrqChips *chips, const Ferry__Pit *pit,
                      struct fy_err *e);
    int (*chips_reset)(struct fy_engine *en, struct fy_err *e);

    /* guest_ns, realtime_ns and tsc of one instant, and each vCPU's TSC at it. */
    int (*clock_save)(struct fy_engine *en, Ferry__Clock *clock, uint64_t *tsc, struct fy_err *e);
    /* Set kvmclock and every TSC so that all have advanced by *elapsed_ns since the saved instant: the real
     * time since then, never less than 0. FY_EREFUSED, nothing set, when a TSC would run backwards. warning
     * (FY_ERR_TEXT bytes): set where a clock jumps forward. */
    int (*clock_load)(struct fy_engine *en, const Ferry__Clock *clock, const uint64_t *tsc,
                      uint64_t *elapsed_ns, char *warning, struct fy_err *e);
    /* Tell the guest's kernel that it was stopped (its soft-lockup watchdog looks). Before vCPUs run again.
     */
    void (*clock_resumed)(struct fy_engine *en);

    /* The MSRs that travel, as found readable at creation (or as the policy says). */
    const uint32_t *(*msrs)(struct fy_engine *en, size_t *count);

    /* Any thread, any time. */
    void (*irq)(struct fy_engine *en, unsigned gsi, bool level);

    /* A message-signalled interrupt (Intel SDM volume 3, 11.11). Any thread, any time. */
    void (*msi)(struct fy_engine *en, uint64_t address, uint32_t data);
    /* Optional: a write at gpa signals the eventfd without vcpu_run seeing it; false where that cannot be,
     * then it goes to the bus. Any thread. */
    bool (*doorbell)(struct fy_engine *en, uint64_t gpa, int eventfd, bool on);

    const struct fy_dirty_ops *dirty; /* for fy_logdirty_new, with the engine as arg */
    /* Pages dirtied by vCPU since logging began; false where the engine cannot tell. */
    bool (*vcpu_dirty)(struct fy_engine *en, uint64_t *pages);
};

#define FY_ICOUNT_NEVER UINT64_MAX
#define FY_ICOUNT_MAX (1ull << 62) /* no guest counts as far */

/* Where a guest stands that counts instructions. */
struct fy_icount_place {
    uint64_t count;  /* instructions begun since power-on; an iteration of REP counts as one */
    uint64_t now_ns; /* virtual time */
    uint64_t rip;
    bool halted;
    uint8_t shadow; /* as Vcpu.interrupt_shadow */
};

/* Of an engine made with icount_ns. Parked and the main thread, unless said otherwise. */
struct fy_icount_ops {
    void (*place)(struct fy_engine *en, struct fy_icount_place *out);
    /* Let vcpu_run end with FY_VCPU_STOPPED once `count` is reached, before anything is delivered there;
     * FY_ICOUNT_NEVER: do not. It stands until changed. */
    void (*stop_at)(struct fy_engine *en, uint64_t count);
    /* Virtual time, and the real time that the guest is shown, in ns. Also the vCPU's thread, in a device. */
    uint64_t (*now_ns)(struct fy_engine *en);
    uint64_t (*realtime_ns)(struct fy_engine *en);
    /* Have the configured alarm called when virtual time has reached `ns`. One is set at a time. Also the
     * vCPU's thread, in a device. */
    void (*set_alarm)(struct fy_engine *en, uint64_t ns);
    void (*save)(struct fy_engine *en, Ferry__Icount *out);
    /* Before clock_load: the clocks are set against it. FY_ECORRUPT, nothing set, when out of range. */
    int (*load)(struct fy_engine *en, const Ferry__Icount *in, struct fy_err *e);
};

struct fy_engine {
    const struct fy_engine_ops *ops;
    const struct fy_icount_ops *icount; /* NULL: time is the host's */
};

#endif
