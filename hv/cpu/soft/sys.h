// SPDX-License-Identifier: Apache-2.0
/* What the system part shares (seg.c, deliver.c, task.c, x_far.c, x_sys*.c, x_cr.c, msr.c); not for others.
 * "false" means, as everywhere: an exception is recorded and nothing has changed. */
#ifndef FERRY_SOFT_SYS_H
#define FERRY_SOFT_SYS_H

#include "hv/cpu/model.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/system.h"

typedef const struct soft_insn *soft_next_t;

/* Types of system descriptors. A 32-bit one's is its 16-bit one's + 8. */
enum {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS = 9,
    SYS_TSS_BUSY = 11,
    SYS_CALL = 12,
    SYS_INT = 14,
    SYS_TRAP = 15
};

#define D_TYPE(d) ((unsigned)((d) >> 40 & 15))
#define D_S(d) ((d) >> 44 & 1)
#define D_DPL(d) ((unsigned)((d) >> 45 & 3))
#define D_PRESENT(d) ((d) >> 47 & 1)
#define D_L(d) ((d) >> 53 & 1)
#define D_DB(d) ((d) >> 54 & 1)
#define D_CODE(d) (D_S(d) && ((d) >> 43 & 1))
#define D_CONFORMING(d) ((d) >> 42 & 1)

static inline bool sys_fail(struct soft_cpu *c, unsigned vector, uint32_t error)
{
    soft_exc_error(c, vector, error);
    return false;
}
/* A selector's error code. */
static inline uint32_t sys_sel(uint16_t sel, uint32_t ext)
{
    return (sel & 0xfffcu) | ext;
}
/* Protected mode proper: segments have descriptors. */
static inline bool sys_protected(const struct soft_cpu *c)
{
    return (c->cr0 & SOFT_CR0_PE) && !(c->eflags & SOFT_EFL_VM);
}
static inline bool sys_long(const struct soft_cpu *c)
{
    return c->efer & SOFT_EFER_LMA;
}
static inline unsigned sys_iopl(const struct soft_cpu *c)
{
    return c->eflags >> 12 & 3;
}

/* --- memory with the rights of `mmu`, at linear addresses; any size up to 64 --- */
bool sys_probe(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how, enum soft_mmu mmu);
bool sys_read(struct soft_cpu *c, uint64_t lin, unsigned size, void *out, enum soft_mmu mmu);
bool sys_write(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in, enum soft_mmu mmu);
static inline enum soft_mmu sys_mmu(const struct soft_cpu *c, unsigned cpl)
{
    if (cpl == 3)
        return SOFT_MMU_USER;
    return (c->cr4 & SOFT_CR4_SMAP) && !(c->eflags & SOFT_EFL_AC) ? SOFT_MMU_KERNEL : SOFT_MMU_KERNEL_AC;
}

/* A stack that need not be the current one. seg is used outside long mode's 64-bit stacks. */
struct sys_stack {
    struct soft_segment seg;
    uint64_t sp;
    bool flat; /* 64-bit */
    enum soft_mmu mmu;
    unsigned vector; /* of a limit fault: SOFT_SSF or SOFT_TS */
    uint32_t error;
};
/* The current one, with 64-bit form where `flat`. */
struct sys_stack sys_stack_now(const struct soft_cpu *c);
/* Push n values (v[0] first) of `size` bytes: all or nothing. Moves s->sp. */
bool sys_push(struct soft_cpu *c, struct sys_stack *s, const uint64_t *v, unsigned n, unsigned size);
/* Read the value `at` bytes above s->sp. */
bool sys_peek(struct soft_cpu *c, const struct sys_stack *s, unsigned at, unsigned size, uint64_t *v);
/* RSP takes the low part of sp that the stack's width has. */
void sys_set_sp(struct soft_cpu *c, const struct soft_segment *ss, bool flat, uint64_t sp);

/* --- descriptors --- */
/* Where sel's descriptor of `bytes` bytes lies. No fault recorded. */
bool sys_desc_at(const struct soft_cpu *c, uint16_t sel, unsigned bytes, uint64_t *at);
/* Read it; outside its table: `vector` with the selector. */
bool sys_desc(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext, uint64_t *d);
/* The upper half of a 16-byte one. */
bool sys_desc_high(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext, uint64_t *d);
struct soft_segment sys_unpack(uint64_t d, uint16_t sel);
/* Set (and take away) bits of the descriptor's type byte in memory, atomically. */
bool sys_desc_mark(struct soft_cpu *c, uint16_t sel, uint8_t set, uint8_t clear);
/* Mark a code or data descriptor accessed, where it is not. */
static inline bool sys_accessed(struct soft_cpu *c, uint16_t sel, uint64_t *d)
{
    if (*d >> 40 & 1)
        return true;
    *d |= 1ull << 40;
    return sys_desc_mark(c, sel, 1, 0);
}
struct soft_segment sys_null(uint16_t sel, unsigned dpl);
struct soft_segment sys_real(uint16_t sel, bool v86);
/* Checks for a stack segment at level cpl; marks it. fault: vector of a wrong one (GP, TS). */
bool sys_check_ss(struct soft_cpu *c, uint16_t sel, unsigned cpl, unsigned vector, uint32_t ext,
                  struct soft_segment *out);
/* Checks for a CS as the target of far JMP and CALL (not through gates) at level cpl, rpl from sel. */
bool sys_check_cs(struct soft_cpu *c, uint16_t sel, uint64_t d, bool is_call, uint32_t ext);
/* After a return to an outer level: data segments that may no longer be used become null. */
void sys_drop_inner(struct soft_cpu *c);
bool sys_load_ldt(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext);
/* A code segment's new state; RPL of its selector becomes cpl. Does not call soft_mode_changed. */
void sys_set_cs(struct soft_cpu *c, uint64_t d, uint16_t sel, unsigned cpl);
/* Is rip good in the code segment d? */
static inline bool sys_rip_ok(const struct soft_cpu *c, const struct soft_segment *cs, uint64_t rip)
{
    return sys_long(c) && cs->l ? soft_canonical(rip) : rip <= cs->limit;
}

/* --- events and tasks --- */
struct sys_event {
    uint8_t vector;
    bool soft;      /* INT n, INT3, INTO: the gate's DPL counts */
    bool internal;  /* by an instruction (also INT1): EXT is 0 */
    bool has_error; /* only where the mode pushes one */
    bool fault;     /* RF is set in the image */
    uint32_t error;
    uint64_t rip; /* pushed */
};
bool sys_deliver(struct soft_cpu *c, const struct sys_event *ev);

enum sys_switch { SWITCH_JMP, SWITCH_CALL, SWITCH_IRET, SWITCH_GATE };
/* Go to the task of TSS `sel`; rip: what the old one goes on with; error: pushed on the new stack (NULL:
 * none). Once the new task's state is in force its faults are its own: true, with the exception recorded. */
bool sys_task_switch(struct soft_cpu *c, uint16_t sel, enum sys_switch how, uint64_t rip,
                     const uint32_t *error, uint32_t ext);
/* Through a task gate d at gate selector. */
bool sys_task_gate(struct soft_cpu *c, uint64_t d, enum sys_switch how, uint64_t rip, const uint32_t *error,
                   uint32_t ext);
/* SS and SP of an inner level from the TSS. */
bool sys_inner_stack(struct soft_cpu *c, unsigned cpl, uint32_t ext, struct sys_stack *out);
/* An entry of the 64-bit TSS: RSP0..2, IST1..7 as 7.. */
bool sys_tss64(struct soft_cpu *c, unsigned offset, uint32_t ext, uint64_t *rsp);

/* --- policy --- */
struct soft_cpuid {
    struct fy_cpuid leaf[FY_CPUID_MAX];
    size_t count;
    uint64_t cr4; /* bits that exist */
    uint64_t efer;
    bool intel, spec_ctrl, pred_cmd, poll, pv_eoi, async_pf;
};
/* What the policy says, in `room` where no memory is left to keep it. */
const struct soft_cpuid *sys_policy(struct soft_cpu *c, struct soft_cpuid *room);

/* --- ends of handlers --- */
/* The instruction is done and goes on at rip, whose code segment is loaded and whose limit is checked: at
 * once, if nothing has to come before. */
static inline soft_next_t sys_go(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip)
{
    if (SOFT_UNLIKELY((c->eflags & SOFT_EFL_TF) || c->breaks || c->watch || c->mode != SOFT_64 ||
                      __atomic_load_n(&c->nmi_pending, __ATOMIC_RELAXED) ||
                      ((c->eflags & SOFT_EFL_IF) && soft_irq_ready(c))))
        return soft_done_at(c, in, rip);
    c->eflags &= ~SOFT_EFL_RF;
    return soft_branch(c, in, rip, 2);
}
static inline soft_next_t sys_gp0(struct soft_cpu *c, const struct soft_insn *in)
{
    return soft_raise_error(c, in, SOFT_GP, 0);
}

/* kvmclock.c */
void sys_wall_clock(struct soft_cpu *c, uint64_t gpa);
void sys_system_time(struct soft_cpu *c, bool stopped);
void sys_steal_time(struct soft_cpu *c);

#endif
