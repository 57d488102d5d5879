// SPDX-License-Identifier: Apache-2.0
/* How an instruction's handler ends, and what handlers share. With SOFT_THREADED (optimised builds without
 * sanitizers) each handler jumps to the next; without it each returns to the loop: same handlers, same
 * results. */
#ifndef FERRY_SOFT_EXEC_H
#define FERRY_SOFT_EXEC_H

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/mem.h"

#ifdef SOFT_THREADED
#define SOFT_GO(c, next) return (next)->fn((c), (next))
#else
#define SOFT_GO(c, next) return (void)(c), (next)
#endif

/* The next instruction of the block. Every block ends with an instruction that does not use this (control
 * flow, or the builder's own end-of-block record). */
#define SOFT_NEXT(c, in) SOFT_GO(c, (in) + 1)

#define SOFT_HANDLER(name)                                                                                   \
    const struct soft_insn *soft_x_##name(struct soft_cpu *c, const struct soft_insn *in)

/* RIP of the instruction and of the one after it, wrapped to the code size. */
static inline uint64_t soft_rip(const struct soft_cpu *c, const struct soft_insn *in)
{
    uint64_t v = c->gpr[SOFT_GPR_BLOCK] + in->off;
    return c->mode == SOFT_64 ? v : (uint32_t)v;
}
static inline uint64_t soft_rip_next(const struct soft_cpu *c, const struct soft_insn *in)
{
    uint64_t v = c->gpr[SOFT_GPR_BLOCK] + in->off + in->len;
    return c->mode == SOFT_64 ? v : c->mode == SOFT_32 ? (uint32_t)v : (uint16_t)v;
}

/* The instruction did not complete: cpu->exc is filled (by a failed access, or soft_raise). Sets rip to the
 * instruction and the count right; returns NULL. The registers must be as before the instruction. */
const struct soft_insn *soft_fault(struct soft_cpu *c, const struct soft_insn *in);
/* Record an exception, then soft_fault. soft_raise_trap: the exception is reported after the instruction
 * (#BP, #OF, INT1). */
const struct soft_insn *soft_raise(struct soft_cpu *c, const struct soft_insn *in, unsigned vector);
const struct soft_insn *soft_raise_error(struct soft_cpu *c, const struct soft_insn *in, unsigned vector,
                                         uint32_t error);
const struct soft_insn *soft_raise_trap(struct soft_cpu *c, const struct soft_insn *in, unsigned vector);
/* Only record (for helpers that then return false). */
void soft_exc(struct soft_cpu *c, unsigned vector);
void soft_exc_error(struct soft_cpu *c, unsigned vector, uint32_t error);
void soft_exc_page(struct soft_cpu *c, uint32_t error, uint64_t cr2);

/* The instruction has completed and the loop must be left (mode, interrupt flag, TLB or code may have
 * changed): rip becomes the next instruction. soft_done_at: rip is `rip`, for far transfers that have loaded
 * CS. Return NULL. */
const struct soft_insn *soft_done(struct soft_cpu *c, const struct soft_insn *in);
const struct soft_insn *soft_done_at(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip);

/* Near control flow inside the same code segment: check `rip` (canonical, or CS limit; 16-bit wraps before
 * the call), find or chain the block, go on there. slot 0: taken, 1: fall-through, both chained inside a
 * page; 2: indirect or into another page (looked up each time). An invalid target raises #GP(0) with the
 * instruction not completed: call before changing registers, or use soft_branch_ok first. */
const struct soft_insn *soft_branch_slow(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip,
                                         unsigned slot);
const struct soft_insn *soft_return_slow(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip,
                                         const struct soft_call *call);

/* The block may be entered unless the limit is met. */
static inline __attribute__((always_inline)) bool soft_enter(struct soft_cpu *c, struct soft_block *b,
                                                             uint64_t rip)
{
    uint64_t insns = c->insns + b->cost;
    if (SOFT_UNLIKELY(insns > __atomic_load_n(&c->limit, __ATOMIC_RELAXED)))
        return false;
    c->insns = insns;
    c->block = b;
    c->gpr[SOFT_GPR_BLOCK] = rip;
    return true;
}
static inline __attribute__((always_inline)) bool soft_jump_ok(const struct soft_cpu *c,
                                                               const struct soft_jump *j, uint64_t rip)
{
    return j->lin == rip && j->key == c->jump_key;
}

static inline __attribute__((always_inline)) const struct soft_insn *
soft_branch(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip, unsigned slot)
{
    struct soft_block *b;
    if (slot < 2) {
        /* Chained blocks lie in the page of this one, so what was checked for it holds. */
        b = c->block->next[slot];
    } else {
        const struct soft_jump *j = &c->block->to;
        if (SOFT_UNLIKELY(!soft_jump_ok(c, j, rip)))
            return soft_branch_slow(c, in, rip, slot);
        b = j->block;
    }
    if (SOFT_UNLIKELY(!soft_enter(c, b, rip)))
        return soft_branch_slow(c, in, rip, slot);
    SOFT_GO(c, b->code);
}

/* The running block ends with a call; `rip` is what it has pushed. Only in 64-bit mode. soft_return, there
 * too, is for a canonical rip: it looks where that call led back to last time. */
static inline void soft_called(struct soft_cpu *c, uint64_t rip)
{
    c->calls[++c->called % SOFT_CALLS] = (struct soft_call){rip, c->block};
}
static inline __attribute__((always_inline)) const struct soft_insn *
soft_return(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip)
{
    const struct soft_call *call = &c->calls[c->called-- % SOFT_CALLS];
    if (SOFT_UNLIKELY(call->rip != rip || !soft_jump_ok(c, &call->from->back, rip) ||
                      !soft_enter(c, call->from->back.block, rip)))
        return soft_return_slow(c, in, rip, call);
    SOFT_GO(c, c->block->code);
}
bool soft_branch_ok(struct soft_cpu *c, uint64_t rip); /* false: #GP(0) recorded */

/* REP. Each iteration beyond the first counts as an instruction: soft_rep_room says how many may be done now
 * (at least 1). One that has done some of its iterations, has updated its registers and is not finished goes
 * through the loop (for interrupts), then again to the same instruction: soft_again. One that is finished
 * calls soft_rep_count with the iterations of this go, then ends as any other. */
uint64_t soft_rep_room(const struct soft_cpu *c);
const struct soft_insn *soft_again(struct soft_cpu *c, const struct soft_insn *in, uint64_t iterations);
static inline void soft_rep_count(struct soft_cpu *c, uint64_t iterations)
{
    if (iterations > 1)
        c->insns += iterations - 1;
}

/* Choose in->fn for a decoded instruction (row, size, forms, flags set). Never NULL. */
soft_fn soft_bind(const struct soft_insn *in);
/* Per class; NULL: no faster one than the row's handler. */
soft_fn soft_bind_int(const struct soft_insn *in);
/* Before binding, with every fn NULL: may set fn of an instruction to a handler that does it and its
 * successor (the last of `n` has none). Returns how many it has fused. */
unsigned soft_fuse_int(struct soft_insn *ins, unsigned n);

#endif
