// SPDX-License-Identifier: Apache-2.0
/* The machine around the software vCPUs: what they share. */
#ifndef FERRY_SOFT_VM_H
#define FERRY_SOFT_VM_H

#include <pthread.h>

#include "hv/cpu/cpu.h"
#include "hv/cpu/soft/cpu.h"

struct soft_dirty;
struct soft_chips;
struct soft_tables;

/* Requests to a vCPU; taken at block boundaries and while it waits. */
#define SOFT_REQ_FLUSH_WRITE 0x01u /* drop write ways: pages are logged again, or hold code now */
#define SOFT_REQ_FLUSH 0x02u       /* drop all ways */
#define SOFT_REQ_CODE 0x04u        /* pages in the vCPU's invalidation queue were written */
#define SOFT_REQ_INIT 0x08u
#define SOFT_REQ_SIPI 0x10u
#define SOFT_REQ_NMI 0x20u
#define SOFT_REQ_IRQ 0x40u   /* soft_irq_ready may have become true */
#define SOFT_REQ_KICK 0x80u  /* vcpu_kick: leave vcpu_run; stands until vcpu_unkick */
#define SOFT_REQ_STOP 0x100u /* stand still for another vCPU's split lock */
#define SOFT_REQ_SYNC 0x200u /* a handshake waits for this one to be taken */

struct soft_vm {
    struct fy_engine base;
    struct fy_gmem *gmem;
    const struct fy_bus *bus;
    const Ferry__CpuPolicy *policy;
    unsigned vcpus;
    struct soft_cpu *cpus[FY_VCPUS_LIMIT];
    struct soft_chips *chips;
    struct soft_dirty *dirty; /* dirty.c */
    /* Shared, a word per memfd page, NORESERVE maps. A vCPU sets its bit of `writers` before it looks at
     * code_users and the dirty log to install a write way; whoever sets code_users or clears the dirty log
     * looks at `writers` afterwards: one of the two sees the other. */
    uint64_t *code_users;      /* bit i: vCPU i holds decoded code of it */
    uint64_t *code_lines;      /* bit i: somebody has decoded bytes of its 64-byte line i */
    uint64_t *writers;         /* bit i: vCPU i may hold a write way for it */
    uint64_t pages;            /* of the memfd */
    uint64_t phys_limit;       /* first physical address that does not exist: 1 << width */
    bool has_1g;               /* 1 GiB pages are offered */
    pthread_mutex_t sync_lock; /* one handshake at a time */
    struct soft_cpu *stopper;  /* shared: holds sync_lock, and the others still */
    pthread_mutex_t halt_lock; /* with halt_wake: halted vCPUs wait here for a request */
    pthread_cond_t halt_wake[FY_VCPUS_LIMIT];
    uint32_t msrs[128]; /* that travel, of a machine made here */
    size_t msr_count;
    /* icount: virtual time from the count of instructions. One vCPU, whose thread these are, or parked. */
    bool icount;
    uint32_t icount_ns; /* an instruction takes */
    uint64_t icount_seed;
    uint64_t stop_at;           /* count at which the vCPU leaves, or FY_ICOUNT_NEVER */
    uint64_t alarm_due;         /* ns, or FY_ICOUNT_NEVER */
    struct soft_tables *tables; /* tables.c; NULL without icount */
    void (*alarm)(void *arg);
    void *alarm_arg;
};

#define SOFT_VM(en) ((struct soft_vm *)(void *)(en))

/* sync.c. Any thread. Post requests and make the vCPU look at them soon (also when halted). */
void soft_request(struct soft_cpu *c, uint32_t requests);
/* Post `requests` to every vCPU in `who` (bit i: vCPU i) but `self` (NULL: none) and return when each has
 * taken them or runs no guest code. Called by a vCPU that holds no host pointer into guest memory, or by a
 * thread that is no vCPU. `self` counts as running no guest code while it waits. */
void soft_handshake(struct soft_vm *vm, struct soft_cpu *self, uint64_t who, uint32_t requests);
/* All other vCPUs stand still from soft_stop_others to soft_start_others. No device is called in between. */
void soft_stop_others(struct soft_cpu *c);
void soft_start_others(struct soft_cpu *c);
/* Around whatever may wait for another thread (device locks): in between, the vCPU touches no guest memory
 * and handshakes do not wait for it. soft_enter_guest takes the requests that came meanwhile, but not those
 * for decoded code: an instruction may be under way. */
void soft_leave_guest(struct soft_cpu *c);
void soft_enter_guest(struct soft_cpu *c);
/* Take what was requested: flushes, a stop, and at a block boundary invalidations. The rest stays for the
 * loop. The vCPU's thread. */
void soft_take_requests(struct soft_cpu *c, bool boundary);

/* block.c: a page of guest RAM was written by `self` (NULL: a device): throw away what any vCPU has decoded
 * of it. */
void soft_code_written(struct soft_vm *vm, struct soft_cpu *self, uint64_t page);

/* dirty.c: the source of dirty pages, with the engine as arg; and its marks. A mark goes after the write, or
 * before the write way; both with a full fence in between (an atomic read-modify-write will do). */
extern const struct fy_dirty_ops soft_dirty_ops;
struct soft_dirty {
    uint64_t *bits; /* shared: per memfd page; mapped for the machine's life */
    bool on;        /* shared */
};
/* Would a write way for the page be allowed without a mark? */
static inline bool soft_dirty_has(const struct soft_vm *vm, uint64_t page)
{
    return !__atomic_load_n(&vm->dirty->on, __ATOMIC_SEQ_CST) ||
           (__atomic_load_n(&vm->dirty->bits[page / 64], __ATOMIC_SEQ_CST) >> (page % 64) & 1);
}
/* vCPUs' own writes count into c's statistics (NULL: nobody's). */
void soft_dirty_set(struct soft_vm *vm, struct soft_cpu *c, uint64_t page);
struct soft_dirty *soft_dirty_new(uint64_t pages);
void soft_dirty_free(struct soft_dirty *d, uint64_t pages);

/* Host address of a RAM byte, NULL: none. Pages are wholly RAM or not at all. */
static inline uint8_t *soft_ram(const struct soft_vm *vm, uint64_t gpa)
{
    const struct fy_gmem *m = vm->gmem;
    for (unsigned i = 0; i < m->ram_slots; i++)
        if (gpa - m->slots[i].gpa < m->slots[i].bytes)
            return m->slots[i].host + (gpa - m->slots[i].gpa);
    return NULL;
}
/* Likewise of a ROM byte: for reads and fetches. */
static inline uint8_t *soft_rom(const struct soft_vm *vm, uint64_t gpa)
{
    const struct fy_gmem *m = vm->gmem;
    for (unsigned i = 0; i < m->rom_count; i++)
        if (gpa - m->roms[i].gpa < m->roms[i].bytes)
            return m->roms[i].host + (gpa - m->roms[i].gpa);
    return NULL;
}
/* access.c: bytes at `host` (inside one page) were written past the ways: log them, drop decoded code and
 * (icount) translations made from them. soft_ram_marked: by the page walker, whose bits change no
 * translation. */
void soft_ram_written(struct soft_cpu *c, const uint8_t *host, unsigned len);
void soft_ram_marked(struct soft_cpu *c, const uint8_t *host, unsigned len);

/* tables.c, icount only: the TLB agrees with the page tables at every instruction, so that it makes no
 * difference what happens to be in it. A walk has used the entry at `host`; the page of the memfd holds used
 * entries, and gets no write way; bytes were written; nothing is remembered any more. The vCPU's thread. */
struct soft_tables *soft_tables_new(uint64_t pages);
void soft_tables_free(struct soft_tables *t, uint64_t pages);
void soft_table_used(struct soft_cpu *c, const uint8_t *host);
bool soft_is_table(const struct soft_vm *vm, uint64_t page);
void soft_table_written(struct soft_cpu *c, const uint8_t *host, unsigned len);
void soft_tables_forget(struct soft_vm *vm);

/* icount.c, the vCPU's thread. soft_icount_turn: fire what is due and set the count to run to.
 * soft_icount_idle: halted; go to the time of the next timer. false: there is none. */
void soft_icount_turn(struct soft_cpu *c);
bool soft_icount_idle(struct soft_cpu *c);
extern const struct fy_icount_ops soft_icount_ops;
/* The real time that an icount guest is shown when its virtual time is 0: from the seed, in ns. */
uint64_t soft_icount_epoch_ns(const struct soft_vm *vm);

/* loop.c: run until a request to leave, the count to stop at, or a crash; HLT waits inside. cpu->report is
 * set. */
enum fy_vcpu_end soft_loop(struct soft_cpu *c);

/* vm.c: whether every instruction of a feature ("sse4.1") has a handler, and the host runs it where handlers
 * leave it to the host; true for a feature without instructions of its own. */
bool soft_feature_whole(const char *name);
/* support.c: whether the host's own CPUID has a feature of fy_features. */
bool soft_host_has(const char *name);

/* vm.c: a machine without chips' state loaded, vCPUs at power-on. Engine operations: engine.c. */
struct soft_vm *soft_vm_new(const struct fy_engine_config *config, struct fy_err *e);
void soft_vm_free(struct soft_vm *vm);

#endif
