// SPDX-License-Identifier: Apache-2.0
/* The architectural and running state of one software vCPU. Owned by the vCPU's thread while it runs, by the
 * main thread while it is parked; fields marked "shared" are atomic. */
#ifndef FERRY_SOFT_CPU_H
#define FERRY_SOFT_CPU_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/cpu/soft/flags.h"
#include "hv/cpu/soft/insn.h"

struct soft_vm;
struct soft_block;
struct soft_cache;
struct soft_jump;
struct soft_lapic;
struct soft_cpuid;

enum { SOFT_RAX, SOFT_RCX, SOFT_RDX, SOFT_RBX, SOFT_RSP, SOFT_RBP, SOFT_RSI, SOFT_RDI };

/* EFLAGS beyond the arithmetic bits */
#define SOFT_EFL_FIXED 0x2u
#define SOFT_EFL_TF 0x100u
#define SOFT_EFL_IF 0x200u
#define SOFT_EFL_DF 0x400u
#define SOFT_EFL_IOPL 0x3000u
#define SOFT_EFL_NT 0x4000u
#define SOFT_EFL_RF 0x10000u
#define SOFT_EFL_VM 0x20000u
#define SOFT_EFL_AC 0x40000u
#define SOFT_EFL_VIF 0x80000u
#define SOFT_EFL_VIP 0x100000u
#define SOFT_EFL_ID 0x200000u

#define SOFT_CR0_PE 0x1u
#define SOFT_CR0_MP 0x2u
#define SOFT_CR0_EM 0x4u
#define SOFT_CR0_TS 0x8u
#define SOFT_CR0_ET 0x10u
#define SOFT_CR0_NE 0x20u
#define SOFT_CR0_WP 0x10000u
#define SOFT_CR0_AM 0x40000u
#define SOFT_CR0_NW 0x20000000u
#define SOFT_CR0_CD 0x40000000u
#define SOFT_CR0_PG 0x80000000u

#define SOFT_CR4_VME 0x1u
#define SOFT_CR4_PVI 0x2u
#define SOFT_CR4_TSD 0x4u
#define SOFT_CR4_DE 0x8u
#define SOFT_CR4_PSE 0x10u
#define SOFT_CR4_PAE 0x20u
#define SOFT_CR4_MCE 0x40u
#define SOFT_CR4_PGE 0x80u
#define SOFT_CR4_PCE 0x100u
#define SOFT_CR4_OSFXSR 0x200u
#define SOFT_CR4_OSXMMEXCPT 0x400u
#define SOFT_CR4_UMIP 0x800u
#define SOFT_CR4_FSGSBASE 0x10000u
#define SOFT_CR4_PCIDE 0x20000u
#define SOFT_CR4_OSXSAVE 0x40000u
#define SOFT_CR4_SMEP 0x100000u
#define SOFT_CR4_SMAP 0x200000u

#define SOFT_EFER_SCE 0x1u
#define SOFT_EFER_LME 0x100u
#define SOFT_EFER_LMA 0x400u
#define SOFT_EFER_NXE 0x800u

/* Exception vectors */
enum {
    SOFT_DE = 0,
    SOFT_DB = 1,
    SOFT_NMI = 2,
    SOFT_BP = 3,
    SOFT_OFX = 4,
    SOFT_BR = 5,
    SOFT_UD = 6,
    SOFT_NM = 7,
    SOFT_DF = 8,
    SOFT_TS = 10,
    SOFT_NP = 11,
    SOFT_SSF = 12,
    SOFT_GP = 13,
    SOFT_PFX = 14,
    SOFT_MF = 16,
    SOFT_AC = 17,
    SOFT_MC = 18,
    SOFT_XM = 19
};

struct soft_segment {
    uint64_t base;
    uint32_t limit; /* in bytes, inclusive (granularity applied) */
    uint16_t sel;
    uint8_t type; /* 4 bits; bit 0 accessed */
    uint8_t dpl;
    bool present, s, db, l, g, avl;
    bool unusable; /* holds a null selector */
};

struct soft_table { /* GDTR, IDTR */
    uint64_t base;
    uint16_t limit;
};

/* One way of the TLB. A tag is the linear page address with bit 0 set, or 0. The host address of a byte is
 * its linear address + addend. `write` is set only for RAM that is logged dirty already and holds no decoded
 * code; where the page tables allow writes and it is not, `write` is the page with bit 1 set instead of bit
 * 0, which no store matches (SOFT_TLB_SLOW). MMIO never has an entry. */
struct soft_tlb_entry {
    uint64_t read, write, fetch;
    uintptr_t addend;
};

#define SOFT_TLB_SLOW 2u
#define SOFT_TLB_SIZE 2048u
#define SOFT_TLB_LISTED 512u /* filled entries that a flush clears one by one; beyond, it clears all */
/* Which rules an access follows. */
enum soft_mmu {
    SOFT_MMU_KERNEL,
    SOFT_MMU_KERNEL_AC /* SMAP lifted by EFLAGS.AC, or off */,
    SOFT_MMU_USER,
    SOFT_MMUS
};

/* A piece of an access inside one page: host memory, or a device's (host NULL). */
struct soft_span {
    uint8_t *host;
    uint64_t gpa;
    unsigned len;
    bool way; /* a write way allowed it: nothing to mark */
};

#define SOFT_INVAL_MAX 64
#define SOFT_WRITERS_MAX 4096
#define SOFT_LIMIT_MAX (1ull << 62) /* cpu->limit never exceeds it, so that a block can cost too much */

struct soft_lane {
    uint64_t q[2];
};

union soft_vec {
    struct soft_lane lane[2];
    uint8_t u8[32];
    int8_t i8[32];
    uint16_t u16[16];
    int16_t i16[16];
    uint32_t u32[8];
    int32_t i32[8];
    uint64_t u64[4];
    int64_t i64[4];
    float f32[8];
    double f64[4];
} __attribute__((aligned(32)));

struct soft_fpu {
    uint8_t st[8][16]; /* physical registers R0..R7: 80 bits, then zero; MMn is the low 64 bits of Rn */
    uint16_t fcw, fsw; /* TOP lives in fsw */
    uint8_t ftw;       /* abridged, as FXSAVE: bit i set: Ri is not empty */
    uint16_t fop;
    uint64_t fip, fdp;
    uint16_t fcs, fds; /* the 64-bit forms of FXSAVE and XSAVE lose them, so they do not travel either */
};

struct soft_exception {
    bool pending;
    uint8_t vector;
    bool has_error;
    uint32_t error;
    uint64_t cr2;   /* #PF */
    uint64_t dr6;   /* #DB: bits to OR into DR6 */
    bool canonical; /* #GP for a non-canonical address (in cr2): soft_fault makes it #SS for the stack */
};

/* Why the loop was left, beside a pending exception. */
enum soft_leave {
    SOFT_LEAVE_NONE, /* look at requests and interrupts, then go on at cpu->rip */
    SOFT_LEAVE_HALT, /* HLT was executed */
    SOFT_LEAVE_CRASH /* triple fault: the report says why */
};

#define SOFT_CALLS 32u
/* A call that may come back: a guess, which a return checks. */
struct soft_call {
    uint64_t rip; /* of the instruction after it */
    struct soft_block *from;
};

struct soft_cpu {
    /* -- hot: touched by most instructions -- */
    uint64_t gpr[SOFT_GPRS]; /* rax rcx rdx rbx rsp rbp rsi rdi r8..r15, then the slots of insn.h */
    struct soft_flags cc;    /* arithmetic flags, lazy; flags.h */
    uint32_t eflags;         /* all other EFLAGS bits; arithmetic ones are 0 here */
    uint8_t cpl;
    uint8_t mode;   /* enum soft_mode of CS */
    bool stack32;   /* SS.B (outside 64-bit mode) */
    uint64_t insns; /* instructions begun since power-on; whole blocks are counted at their entry */
    uint64_t limit; /* shared: a block may be entered while insns + its length <= limit; a kick stores 0 */
    struct soft_tlb_entry *tlb; /* the ways of the mmu in force for ordinary accesses */
    struct soft_block *block;   /* the running one */
    struct soft_jump *jumps;    /* the jump cache, SOFT_JUMPS entries; block.h */
    uint64_t jump_key;          /* what an entry must have to count: epoch, user, stack32, mode */
    unsigned called;            /* calls begun, less returns: the last one is in calls[called % SOFT_CALLS] */
    struct soft_call calls[SOFT_CALLS];
    struct soft_segment seg[SOFT_SREGS];

    /* -- between blocks -- */
    uint64_t rip;       /* valid outside the loop: the next instruction, or the one that faulted */
    uint64_t run_limit; /* what `limit` is when nobody kicks: UINT64_MAX (then SOFT_LIMIT_MAX counts), or
                           icount's next stop */
    struct soft_exception exc;
    uint8_t leave;   /* enum soft_leave */
    uint8_t shadow;  /* interrupt shadow in force before the instruction at rip: 0, 1 by STI, 2 by MOV SS */
    bool mode_dirty; /* soft_mode_changed is due */
    bool retry;      /* the instruction at rip wants to be run alone, for an exact count (icount) */
    uint8_t mmu;     /* enum soft_mmu of ordinary accesses */
    bool ac_check;   /* #AC is armed: CR0.AM, EFLAGS.AC, CPL 3 */
    uint8_t watch;   /* data breakpoints in force, bit i: DRi */
    uint8_t breaks;  /* instruction breakpoints in force */
    uint8_t dr_hit;  /* data breakpoints that the running instruction has met */

    union soft_vec ymm[16];
    uint32_t mxcsr;
    struct soft_fpu fpu;

    uint64_t cr0, cr2, cr3, cr4, efer, xcr0;
    uint64_t dr[8]; /* 4 and 5 unused */
    uint64_t pdptr[4];
    struct soft_table gdt, idt;

    uint64_t star, lstar, cstar, fmask, kernel_gs_base, tsc_aux;
    uint64_t sysenter_cs, sysenter_esp, sysenter_eip;
    uint64_t pat, misc_enable, apic_base, tsc_deadline, tsc_adjust, spec_ctrl, smbase;
    uint64_t mtrr_def, mtrr_fixed[11], mtrr_base[8], mtrr_mask[8];
    uint64_t mcg_status, mcg_ctl, mc[4 * 32];
    uint64_t kvm_wall_clock, kvm_system_time, kvm_steal_time, kvm_async_pf, kvm_pv_eoi, kvm_poll_control;

    /* -- what is on its way in -- */
    bool nmi_pending /* shared */, nmi_masked;
    bool injected;         /* an event was being delivered when the vCPU was saved (loaded from KVM) */
    uint8_t injected_kind; /* 0 exception, 1 external interrupt, 2 software interrupt, 3 NMI */
    uint8_t injected_vector;
    bool injected_has_error;
    uint32_t injected_error;
    uint8_t run_state; /* shared; Vcpu.run_state's values: 0 runnable, 1 waits for INIT, 2 waits for SIPI, 3
                          halted */
    uint8_t sipi_vector;
    bool triple_fault;

    uint64_t
        *foreign_msrs; /* MSRs of the policy that this CPU has not, by their place in it; NULL until a load */

    /* -- machinery -- */
    unsigned index;
    struct soft_vm *vm;
    struct soft_cache *cache; /* decoded blocks; block.c */
    struct soft_lapic *lapic; /* chips/lapic.c */
    struct soft_cpuid *cpuid; /* x_cpuid.c; NULL until first used */
    uint64_t features;        /* enum soft_feature bits of the CPU policy */
    char *report;             /* FY_REPORT_MAX bytes, while vcpu_run runs */
    uint32_t requests;        /* shared: SOFT_REQ_* */
    uint32_t in_guest;        /* shared: 1 while blocks may run */
    uint64_t request_seq;     /* shared: odd while requests are being taken */
    uint32_t waiting;         /* shared: 1 while it sleeps on halt_wake */
    struct {
        struct soft_span span[2];
        unsigned size;
        bool stopped, mark;
        uint8_t buf[64] __attribute__((aligned(64)));
    } rmw;
    /* Pages that this vCPU has had written, under inval_lock; inval_all: too many to list. */
    pthread_mutex_t inval_lock;
    uint64_t inval[SOFT_INVAL_MAX];
    unsigned inval_count;
    bool inval_all;
    /* Pages (of the memfd) in whose vm->writers this vCPU's bit is set. */
    unsigned writer_count;
    uint64_t writer_pages[SOFT_WRITERS_MAX];
    uint64_t large_2m, large_1g; /* Bloom filters of large pages in the TLB, for INVLPG */
    struct soft_tlb_entry ways[SOFT_MMUS][SOFT_TLB_SIZE] __attribute__((aligned(64)));
    unsigned fills; /* entries filled since the last flush; the first SOFT_TLB_LISTED of them: */
    uint16_t filled[SOFT_TLB_LISTED];
    uint64_t stat_blocks, stat_decoded, stat_walks, stat_flushes; /* for reports, not state */
    uint64_t stat_invalidated, stat_dirty /* shared */;
    uint64_t idle_since, idle_insns; /* loop.c: begin of the window in which idleness is looked for */
};

/* All EFLAGS as the guest would push them. */
static inline uint64_t soft_rflags(const struct soft_cpu *c)
{
    return c->eflags | SOFT_EFL_FIXED | soft_cc_get(&c->cc);
}

/* Set all EFLAGS bits that exist from `v`, no checks; the caller sees to soft_mode_changed when AC, VM or TF
 * change. */
static inline void soft_set_rflags(struct soft_cpu *c, uint64_t v)
{
    soft_cc_set(&c->cc, (uint32_t)v & 0x8d5u);
    c->eflags = (uint32_t)v & 0x3f7700u;
}

/* After the base of FS or GS has changed, before the next instruction. */
static inline void soft_bases_changed(struct soft_cpu *c)
{
    c->gpr[SOFT_GPR_FS] = c->seg[SOFT_FS].base;
    c->gpr[SOFT_GPR_GS] = c->seg[SOFT_GS].base;
}

#endif
