// SPDX-License-Identifier: Apache-2.0
/* Flag instructions, BSWAP, MOVBE, CRC32, random numbers, fences, cache hints, BOUND, ARPL, UDn. */
#include <sys/random.h>

#include "hv/cpu/soft/vm.h"
#include "hv/cpu/soft/x_int.h"

SOFT_HANDLER(nop)
{
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(lfence)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(mfence)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(sfence)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    SOFT_NEXT(c, in);
}
/* A line's flush faults as a load of its byte does. */
X_INLINE soft_next x_flush_line(struct soft_cpu *c, const struct soft_insn *in)
{
    struct x_val at = x_ea(c, in, 1, SOFT_READ);
    if (!at.ok || !soft_probe(c, at.v, 1, SOFT_READ))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(clflush)
{
    return x_flush_line(c, in);
}
SOFT_HANDLER(clflushopt)
{
    return x_flush_line(c, in);
}
SOFT_HANDLER(clwb)
{
    return x_flush_line(c, in);
}

SOFT_HANDLER(ud0)
{
    return soft_raise(c, in, SOFT_UD);
}
SOFT_HANDLER(ud1)
{
    return soft_raise(c, in, SOFT_UD);
}
SOFT_HANDLER(ud2)
{
    return soft_raise(c, in, SOFT_UD);
}

/* -- flags ----------------------------------------------------------------------------------------------- */

SOFT_HANDLER(clc)
{
    soft_cc_put_c(&c->cc, false);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(stc)
{
    soft_cc_put_c(&c->cc, true);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(cmc)
{
    soft_cc_put_c(&c->cc, !soft_cc_cf(&c->cc));
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(cld)
{
    c->eflags &= ~SOFT_EFL_DF;
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(std)
{
    c->eflags |= SOFT_EFL_DF;
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(lahf)
{
    x_set(c, 1, 1, (soft_cc_get(&c->cc) & 0xff) | SOFT_EFL_FIXED);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(sahf)
{
    x_cc_merge(c, SOFT_FL_ALL & 0xff, (uint32_t)x_reg(c, 1, 1) & SOFT_FL_ALL);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(salc)
{
    x_set(c, 0, 1, soft_cc_cf(&c->cc) ? 0xff : 0);
    SOFT_NEXT(c, in);
}

/* -- bytes ----------------------------------------------------------------------------------------------- */

X_INLINE uint64_t x_swap(uint64_t v, unsigned size)
{
    return size == 8   ? __builtin_bswap64(v)
           : size == 4 ? __builtin_bswap32((uint32_t)v)
                       : __builtin_bswap16((uint16_t)v);
}
/* Of 16 bits: undefined; current processors give 0. */
SOFT_HANDLER(bswap)
{
    if (in->size == 8)
        x_set(c, in->reg_at, 8, x_swap(c->gpr[in->reg_at / 8], 8));
    else if (in->size == 4)
        x_set(c, in->reg_at, 4, x_swap(c->gpr[in->reg_at / 8], 4));
    else
        x_set(c, in->reg_at, 2, 0);
    SOFT_NEXT(c, in);
}
X_INLINE soft_next x_movbe(struct soft_cpu *c, const struct soft_insn *in, bool load, unsigned size)
{
    if (load) {
        struct x_val v = x_rm(c, in, size);
        if (!v.ok)
            return soft_fault(c, in);
        x_set(c, in->reg_at, size, x_swap(v.v, size));
    } else if (!x_set_rm(c, in, size, x_swap(x_reg(c, in->reg_at, size), size))) {
        return soft_fault(c, in);
    }
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(movbe_load)
{
    X_BY_SIZE(c, in, x_movbe, true);
}
SOFT_HANDLER(movbe_store)
{
    X_BY_SIZE(c, in, x_movbe, false);
}

/* CRC-32C of 1, 2, 4, 8 bytes into reg, whose upper half becomes 0. F0: the source is a byte. */
SOFT_HANDLER(crc32)
{
    unsigned size = in->opcode == 0xf0 ? 1 : in->size;
    struct x_val v;
    uint32_t crc = (uint32_t)c->gpr[in->reg & 15];
    if (size == 1)
        v = x_rm(c, in, 1);
    else if (size == 2)
        v = x_rm(c, in, 2);
    else if (size == 4)
        v = x_rm(c, in, 4);
    else
        v = x_rm(c, in, 8);
    if (!v.ok)
        return soft_fault(c, in);
    for (unsigned i = 0; i < size; i++, v.v >>= 8) {
        crc ^= (uint8_t)v.v;
        for (unsigned k = 0; k < 8; k++)
            crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
    }
    c->gpr[in->reg & 15] = crc;
    SOFT_NEXT(c, in);
}

/* -- random numbers -------------------------------------------------------------------------------------- */

/* splitmix64 of the seed and the instruction's exact number, so that it does not matter how the run is cut
 * into blocks and that a moved machine goes on alike. */
static void x_seeded(const struct soft_cpu *c, const struct soft_insn *in, uint8_t *out, unsigned n)
{
    uint64_t count = c->insns - c->block->count + (uint64_t)(in - c->block->code);
    uint64_t x = c->vm->icount_seed + count * 0x9e3779b97f4a7c15u + c->index;
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
    x = (x ^ x >> 27) * 0x94d049bb133111ebu;
    x ^= x >> 31;
    memcpy(out, &x, n);
}

/* The pool is the thread's own, so that an instruction is not a system call. */
bool soft_entropy(struct soft_cpu *c, const struct soft_insn *in, void *out, unsigned n)
{
    static __thread uint8_t pool[256];
    static __thread unsigned left;
    if (n > 8)
        return false;
    if (c->vm && c->vm->icount) {
        x_seeded(c, in, out, n);
        return true;
    }
    if (left < n) {
        if (getrandom(pool, sizeof pool, 0) != (ssize_t)sizeof pool)
            return false;
        left = sizeof pool;
    }
    left -= n;
    memcpy(out, pool + left, n);
    memset(pool + left, 0, n);
    return true;
}
static __attribute__((noinline)) struct x_val x_random(struct soft_cpu *c, const struct soft_insn *in)
{
    struct x_val v = {0, false};
    v.ok = soft_entropy(c, in, &v.v, in->size);
    return v;
}
/* CF: a number was there; the destination is 0 otherwise. */
SOFT_HANDLER(rdrand)
{
    struct x_val v = x_random(c, in);
    if (in->size == 2)
        x_set(c, in->rm_at, 2, v.v);
    else if (in->size == 4)
        x_set(c, in->rm_at, 4, v.v);
    else
        x_set(c, in->rm_at, 8, v.v);
    soft_cc_set(&c->cc, v.ok ? SOFT_FL_C : 0);
    SOFT_NEXT(c, in);
}
SOFT_HANDLER(rdseed)
{
    return soft_x_rdrand(c, in);
}
SOFT_HANDLER(rdpid)
{
    c->gpr[in->rm & 15] = (uint32_t)c->tsc_aux;
    SOFT_NEXT(c, in);
}

/* -- protection ------------------------------------------------------------------------------------------ */

/* Two signed bounds in memory, inclusive. */
SOFT_HANDLER(bound)
{
    unsigned size = in->size == 2 ? 2 : 4;
    int64_t v = (int64_t)x_sx(c->gpr[in->reg & 7], size);
    struct x_val at = x_ea(c, in, 2 * size, SOFT_READ), low, high;
    if (!at.ok)
        return soft_fault(c, in);
    low = x_ld(c, at.v, size);
    high = low.ok ? x_ld(c, at.v + size, size) : low;
    if (!high.ok)
        return soft_fault(c, in);
    if (v < (int64_t)x_sx(low.v, size) || v > (int64_t)x_sx(high.v, size))
        return soft_raise(c, in, SOFT_BR);
    SOFT_NEXT(c, in);
}

/* Raise the destination selector's RPL to the source's; written only where it changes. #UD in real and
 * virtual-8086 mode. */
SOFT_HANDLER(arpl)
{
    uint64_t src = x_reg(c, in->reg * 8u, 2);
    struct x_val at = {0, true}, d;
    bool raise;
    if (!(c->cr0 & SOFT_CR0_PE) || (c->eflags & SOFT_EFL_VM))
        return soft_raise(c, in, SOFT_UD);
    if (in->flags & SOFT_I_MEM) {
        at = x_ea(c, in, 2, SOFT_READ);
        d = at.ok ? x_ld(c, at.v, 2) : at;
    } else {
        d = x_rm(c, in, 2);
    }
    if (!d.ok)
        return soft_fault(c, in);
    raise = (d.v & 3) < (src & 3);
    if (raise && !x_set_rm(c, in, 2, (d.v & ~3ull) | (src & 3)))
        return soft_fault(c, in);
    x_cc_merge(c, SOFT_FL_Z, raise ? SOFT_FL_Z : 0);
    SOFT_NEXT(c, in);
}
