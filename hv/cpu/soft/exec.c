// SPDX-License-Identifier: Apache-2.0
/* The ways out of a handler. */
#include "hv/cpu/soft/exec.h"

#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/vm.h"

/* Blocks are counted whole at their entry: take back all instructions after the first `done`. */
static void recount(struct soft_cpu *c, const struct soft_insn *in, unsigned done)
{
    uint64_t begun = (uint64_t)(in - c->block->code) + done;
    if (begun < c->block->count)
        c->insns -= c->block->count - begun;
}

static const struct soft_insn *leave(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip,
                                     unsigned done)
{
    recount(c, in, done);
    c->rip = rip;
    return NULL;
}

/* The address that was not canonical was the stack's: #SS. Only 64-bit mode gets here. */
static bool on_stack(const struct soft_cpu *c, const struct soft_insn *in)
{
    /* These have no other access than the operand's, by element or by RDI even where ModRM names none. */
    if (soft_rows[in->row].flags & SOFT_R_SIMD)
        return in->seg == SOFT_SS;
    if (in->flags & SOFT_I_MEM) {
        uint64_t lin = soft_ea_offset(c, in);
        if (in->ea & SOFT_EA_SEG)
            lin += c->seg[in->seg].base;
        if (c->exc.cr2 - lin < 64)
            return in->seg == SOFT_SS;
    }
    return !(soft_rows[in->row].flags & SOFT_R_REP);
}

const struct soft_insn *soft_fault(struct soft_cpu *c, const struct soft_insn *in)
{
    if (SOFT_UNLIKELY(c->retry && !c->exc.pending))
        return leave(c, in, soft_rip(c, in), 0);
    if (c->exc.canonical && on_stack(c, in))
        c->exc.vector = SOFT_SSF;
    return leave(c, in, soft_rip(c, in), 1);
}

void soft_exc(struct soft_cpu *c, unsigned vector)
{
    c->exc = (struct soft_exception){.pending = true, .vector = (uint8_t)vector};
}

void soft_exc_error(struct soft_cpu *c, unsigned vector, uint32_t error)
{
    soft_exc(c, vector);
    c->exc.has_error = true;
    c->exc.error = error;
}

void soft_exc_page(struct soft_cpu *c, uint32_t error, uint64_t cr2)
{
    soft_exc_error(c, SOFT_PFX, error);
    c->exc.cr2 = cr2;
}

const struct soft_insn *soft_raise(struct soft_cpu *c, const struct soft_insn *in, unsigned vector)
{
    soft_exc(c, vector);
    return leave(c, in, soft_rip(c, in), 1);
}

const struct soft_insn *soft_raise_error(struct soft_cpu *c, const struct soft_insn *in, unsigned vector,
                                         uint32_t error)
{
    soft_exc_error(c, vector, error);
    return leave(c, in, soft_rip(c, in), 1);
}

const struct soft_insn *soft_raise_trap(struct soft_cpu *c, const struct soft_insn *in, unsigned vector)
{
    soft_exc(c, vector);
    return leave(c, in, soft_rip_next(c, in), 1);
}

const struct soft_insn *soft_done(struct soft_cpu *c, const struct soft_insn *in)
{
    return leave(c, in, soft_rip_next(c, in), 1);
}

const struct soft_insn *soft_done_at(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip)
{
    return leave(c, in, rip, 1);
}

bool soft_branch_ok(struct soft_cpu *c, uint64_t rip)
{
    if (c->mode == SOFT_64 ? soft_canonical(rip) : rip <= c->seg[SOFT_CS].limit)
        return true;
    soft_exc_error(c, SOFT_GP, 0);
    return false;
}

uint64_t soft_rep_room(const struct soft_cpu *c)
{
    uint64_t limit = __atomic_load_n(&c->limit, __ATOMIC_RELAXED);
    /* icount: a device that looks at the clock must not see how many iterations are done at once. */
    if (limit <= c->insns || (c->vm->icount && (c->block->flags & SOFT_B_COUNTED)))
        return 1;
    /* Not for ever: somebody may want to interrupt. */
    uint64_t room = limit - c->insns + 1;
    return room < 65536 ? room : 65536;
}

const struct soft_insn *soft_again(struct soft_cpu *c, const struct soft_insn *in, uint64_t iterations)
{
    recount(c, in, 1);
    soft_rep_count(c, iterations);
    c->rip = soft_rip(c, in);
    return NULL;
}

static bool chainable(const struct soft_cpu *c, const struct soft_block *from, const struct soft_block *to,
                      uint64_t rip)
{
    return c->mode == SOFT_64 &&
           !((from->flags | to->flags) & (SOFT_B_DEAD | SOFT_B_STRADDLE | SOFT_B_SINGLE)) &&
           from->phys / 4096 == to->phys / 4096 && (c->gpr[SOFT_GPR_BLOCK] ^ rip) < 4096;
}

/* The block at rip that the jump cache knows; NULL: none. Only in 64-bit mode, where no limit of CS is to be
 * looked at. */
static struct soft_block *known(struct soft_cpu *c, uint64_t rip)
{
    const struct soft_jump *j = soft_jump_at(c, rip);
    return soft_jump_ok(c, j, rip) && c->mode == SOFT_64 ? j->block : NULL;
}

static const struct soft_insn *search(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip,
                                      unsigned slot)
{
    if (!soft_branch_ok(c, rip))
        return soft_fault(c, in);
    leave(c, in, rip, 1);
    if (c->insns >= __atomic_load_n(&c->limit, __ATOMIC_RELAXED))
        return NULL;
    uint64_t generation = soft_cache_generation(c->cache);
    struct soft_block *from = c->block, *to = soft_find(c, rip);
    if (!to)
        return NULL;
    if (slot < 2 && generation == soft_cache_generation(c->cache) && chainable(c, from, to, rip))
        from->next[slot] = to;
    if (!soft_enter(c, to, rip))
        return NULL;
    SOFT_GO(c, to->code);
}

const struct soft_insn *soft_branch_slow(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip,
                                         unsigned slot)
{
    /* Into another page there is no chain. Inside the page one is to be made. */
    bool far = slot == 2 || (c->gpr[SOFT_GPR_BLOCK] ^ rip) >= 4096;
    struct soft_block *b = far ? known(c, rip) : NULL;
    if (SOFT_UNLIKELY(!b))
        return search(c, in, rip, slot);
    if (slot == 2)
        c->block->to = (struct soft_jump){rip, b, c->jump_key};
    if (SOFT_UNLIKELY(!soft_enter(c, b, rip)))
        return search(c, in, rip, slot);
    SOFT_GO(c, b->code);
}

const struct soft_insn *soft_return_slow(struct soft_cpu *c, const struct soft_insn *in, uint64_t rip,
                                         const struct soft_call *call)
{
    struct soft_block *b = known(c, rip);
    if (SOFT_UNLIKELY(!b))
        return search(c, in, rip, 2);
    if (call->rip == rip)
        call->from->back = (struct soft_jump){rip, b, c->jump_key};
    if (SOFT_UNLIKELY(!soft_enter(c, b, rip)))
        return search(c, in, rip, 2);
    SOFT_GO(c, b->code);
}
