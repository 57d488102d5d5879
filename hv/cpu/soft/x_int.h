// SPDX-License-Identifier: Apache-2.0
/* What the integer handlers share; not for others. Helpers are always inlined with constant operation and
 * size, so that each handler is straight code. No handler lets the address of a local escape: the jump to the
 * next handler must stay a jump. A fast handler does only the usual case (flat address, TLB hit) and jumps to
 * the mnemonic's general handler for everything else. */
#ifndef FERRY_SOFT_X_INT_H
#define FERRY_SOFT_X_INT_H

#include "hv/cpu/soft/exec.h"

#define X_INLINE static inline __attribute__((always_inline))
/* Accesses that race by the guest's own choice. What is inlined into a checked function is checked with it,
 * so under the thread sanitizer these are functions of their own. */
#if defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define X_RACY SOFT_RACY static __attribute__((noinline, unused))
#endif
#endif
#ifndef X_RACY
#define X_RACY SOFT_RACY X_INLINE
#endif

/* All general handlers of this part, by mnemonic. */
// clang-format off
#define SOFT_INT_HANDLERS(X) \
    X(add) X(or) X(adc) X(sbb) X(and) X(sub) X(xor) X(cmp) X(test) X(inc) X(dec) X(neg) X(not) X(mov) \
    X(mov_moffs_load) X(mov_moffs_store) X(push) X(push_imm) X(pop) X(pusha) X(popa) X(enter) X(leave) \
    X(xchg) X(nop) X(xlat) X(lea) X(bound) X(movsxd) X(movsx) X(movzx) X(cbw) X(cwd) X(rol) X(ror) \
    X(rcl) X(rcr) X(shl) X(shr) X(sar) X(rol_cl) X(ror_cl) X(rcl_cl) X(rcr_cl) X(shl_cl) X(shr_cl) \
    X(sar_cl) X(shld) X(shld_cl) X(shrd) X(shrd_cl) X(mul) X(imul1) X(imul2) X(imul3) X(div) X(idiv) \
    X(bt) X(bts) X(btr) X(btc) X(bsf) X(bsr) X(popcnt) X(lzcnt) X(tzcnt) X(jcc) X(setcc) X(cmovcc) \
    X(jmp_rel) X(call_rel) X(jmp_ind) X(call_ind) X(ret) X(ret_imm) X(loop) X(loope) X(loopne) X(jcxz) \
    X(clc) X(stc) X(cmc) X(cld) X(std) X(lahf) X(sahf) X(salc) X(aaa) X(aas) X(aam) X(aad) X(daa) \
    X(das) X(movs) X(cmps) X(stos) X(lods) X(scas) X(cmpxchg) X(cmpxchg8b) X(cmpxchg16b) X(xadd) \
    X(bswap) X(movbe_load) X(movbe_store) X(crc32) X(rdrand) X(rdseed) X(rdpid) X(adcx) X(adox) X(andn) \
    X(bextr) X(blsi) X(blsmsk) X(blsr) X(bzhi) X(mulx) X(pdep) X(pext) X(rorx) X(sarx) X(shlx) X(shrx) \
    X(lfence) X(mfence) X(sfence) X(clflush) X(clflushopt) X(clwb) X(ud0) X(ud1) X(ud2) X(arpl)
// clang-format on
#define X(name) SOFT_HANDLER(name);
SOFT_INT_HANDLERS(X)
#undef X

typedef const struct soft_insn *soft_next;

/* A value or a recorded fault, returned in registers. */
struct x_val {
    uint64_t v;
    bool ok;
};

/* x_mem.c: the slow halves of the helpers below. */
struct x_val x_ld_slow(struct soft_cpu *c, uint64_t lin, unsigned size);
bool x_st_slow(struct soft_cpu *c, uint64_t lin, unsigned size, uint64_t v);
struct x_val x_ea_slow(struct soft_cpu *c, const struct soft_insn *in, unsigned size, enum soft_access how);
struct x_val x_linear_slow(struct soft_cpu *c, unsigned seg, uint64_t off, unsigned size,
                           enum soft_access how);

X_INLINE uint64_t x_sx(uint64_t v, unsigned size)
{
    switch (size) {
    case 1:
        return (uint64_t)(int64_t)(int8_t)v;
    case 2:
        return (uint64_t)(int64_t)(int16_t)v;
    case 4:
        return (uint64_t)(int64_t)(int32_t)v;
    default:
        return v;
    }
}
X_INLINE uint64_t x_zx(uint64_t v, unsigned size)
{
    switch (size) {
    case 1:
        return (uint8_t)v;
    case 2:
        return (uint16_t)v;
    case 4:
        return (uint32_t)v;
    default:
        return v;
    }
}

/* Guest or register bytes as a number. */
X_RACY uint64_t x_get(const void *p, unsigned size)
{
    uint8_t b;
    uint16_t w;
    uint32_t d;
    uint64_t q;
    switch (size) {
    case 1:
        __builtin_memcpy(&b, p, 1);
        return b;
    case 2:
        __builtin_memcpy(&w, p, 2);
        return w;
    case 4:
        __builtin_memcpy(&d, p, 4);
        return d;
    default:
        __builtin_memcpy(&q, p, 8);
        return q;
    }
}
X_RACY void x_put(void *p, unsigned size, uint64_t v)
{
    uint8_t b = (uint8_t)v;
    uint16_t w = (uint16_t)v;
    uint32_t d = (uint32_t)v;
    switch (size) {
    case 1:
        __builtin_memcpy(p, &b, 1);
        break;
    case 2:
        __builtin_memcpy(p, &w, 2);
        break;
    case 4:
        __builtin_memcpy(p, &d, 4);
        break;
    default:
        __builtin_memcpy(p, &v, 8);
        break;
    }
}

/* The register at byte offset `at` (reg_at, rm_at). 32-bit writes zero the upper half, narrower ones keep it.
 */
X_INLINE uint64_t x_reg(const struct soft_cpu *c, unsigned at, unsigned size)
{
    return x_get((const uint8_t *)c->gpr + at, size);
}
X_INLINE void x_set(struct soft_cpu *c, unsigned at, unsigned size, uint64_t v)
{
    if (size == 4)
        x_put((uint8_t *)c->gpr + at, 8, (uint32_t)v);
    else
        x_put((uint8_t *)c->gpr + at, size, v);
}

/* soft_tlb_hit with one comparison: the last byte's page is compared with the tag found by the first byte's,
 * and neighbouring pages never share an entry. */
X_INLINE void *x_hit(const struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how)
{
    const struct soft_tlb_entry *t = &c->tlb[(lin >> 12) & (SOFT_TLB_SIZE - 1)];
    uint64_t tag = how == SOFT_WRITE ? t->write : t->read;
    void *p = (void *)((uintptr_t)lin + t->addend);
    if (SOFT_UNLIKELY(tag != (((lin + (size - 1)) & ~0xfffull) | 1)))
        return NULL;
    if (!p)
        __builtin_unreachable();
    return p;
}

X_INLINE struct x_val x_ld(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    const void *p = x_hit(c, lin, size, SOFT_READ);
    if (SOFT_LIKELY(p != NULL))
        return (struct x_val){x_get(p, size), true};
    return x_ld_slow(c, lin, size);
}
X_INLINE bool x_st(struct soft_cpu *c, uint64_t lin, unsigned size, uint64_t v)
{
    void *p = x_hit(c, lin, size, SOFT_WRITE);
    if (SOFT_LIKELY(p != NULL)) {
        x_put(p, size, v);
        return true;
    }
    return x_st_slow(c, lin, size, v);
}
X_INLINE struct x_val x_ea(struct soft_cpu *c, const struct soft_insn *in, unsigned size,
                           enum soft_access how)
{
    if (SOFT_LIKELY(!in->ea))
        return (struct x_val){soft_ea_offset(c, in), true};
    return x_ea_slow(c, in, size, how);
}
/* Segment:offset; SS, DS, ES, CS have no base in 64-bit mode. */
X_INLINE struct x_val x_linear(struct soft_cpu *c, unsigned seg, uint64_t off, unsigned size,
                               enum soft_access how)
{
    if (SOFT_LIKELY(c->mode == SOFT_64 && seg != SOFT_FS && seg != SOFT_GS))
        return (struct x_val){off, true};
    return x_linear_slow(c, seg, off, size, how);
}
/* For addresses that are not the ModRM operand's: soft_fault could not tell whether #GP or #SS is due. */
X_INLINE struct x_val x_canonical(struct soft_cpu *c, struct x_val at, unsigned seg)
{
    if (SOFT_UNLIKELY(at.ok && c->mode == SOFT_64 && !soft_canonical(at.v))) {
        soft_exc_error(c, seg == SOFT_SS ? SOFT_SSF : SOFT_GP, 0);
        at.ok = false;
    }
    return at;
}
/* The memory operand's value. */
X_INLINE struct x_val x_ld_mem(struct soft_cpu *c, const struct soft_insn *in, unsigned size)
{
    struct x_val a = x_ea(c, in, size, SOFT_READ);
    return SOFT_LIKELY(a.ok) ? x_ld(c, a.v, size) : a;
}
X_INLINE bool x_st_mem(struct soft_cpu *c, const struct soft_insn *in, unsigned size, uint64_t v)
{
    struct x_val a = x_ea(c, in, size, SOFT_WRITE);
    return SOFT_LIKELY(a.ok) && x_st(c, a.v, size, v);
}
/* The rm operand's value, register or memory. */
X_INLINE struct x_val x_rm(struct soft_cpu *c, const struct soft_insn *in, unsigned size)
{
    if (in->flags & SOFT_I_MEM)
        return x_ld_mem(c, in, size);
    return (struct x_val){x_reg(c, in->rm_at, size), true};
}
X_INLINE bool x_set_rm(struct soft_cpu *c, const struct soft_insn *in, unsigned size, uint64_t v)
{
    if (in->flags & SOFT_I_MEM)
        return x_st_mem(c, in, size, v);
    x_set(c, in->rm_at, size, v);
    return true;
}

/* LOCK: a pointer to the operand; `direct`: shared memory, use atomics; else a buffer while all others stand
 * still. end with x_lock_end. */
struct x_lock {
    void *p;
    bool direct;
    bool held; /* soft_lock_end is due */
};
struct x_lock x_lock_slow(struct soft_cpu *c, uint64_t lin, unsigned size);
X_INLINE struct x_lock x_lock_begin(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    void *p = x_hit(c, lin, size, SOFT_WRITE);
    if (SOFT_LIKELY(p && !(lin & (size - 1))))
        return (struct x_lock){p, true, false};
    return x_lock_slow(c, lin, size);
}
X_INLINE void x_lock_end(struct soft_cpu *c, struct x_lock l)
{
    if (SOFT_UNLIKELY(l.held))
        soft_lock_end(c, l.p, l.direct);
}
/* Compare and exchange `size` aligned bytes; *old becomes what was there. */
X_RACY bool x_cas(void *p, unsigned size, uint64_t *old, uint64_t v)
{
    bool ok;
    uint8_t b = (uint8_t)*old;
    uint16_t w = (uint16_t)*old;
    uint32_t d = (uint32_t)*old;
    switch (size) {
    case 1:
        ok = __atomic_compare_exchange_n((uint8_t *)p, &b, (uint8_t)v, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST);
        *old = b;
        return ok;
    case 2:
        ok = __atomic_compare_exchange_n((uint16_t *)p, &w, (uint16_t)v, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST);
        *old = w;
        return ok;
    case 4:
        ok = __atomic_compare_exchange_n((uint32_t *)p, &d, (uint32_t)v, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_SEQ_CST);
        *old = d;
        return ok;
    default:
        return __atomic_compare_exchange_n((uint64_t *)p, old, v, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

/* Flags of a result whose CF, AF, OF are known. */
X_INLINE void x_cc_res(struct soft_cpu *c, unsigned size, uint64_t res, uint32_t cao)
{
    c->cc.res = x_sx(res, size);
    c->cc.src = cao;
    c->cc.op = SOFT_CC(SOFT_CC_RES, size);
}
X_INLINE void x_cc_logic(struct soft_cpu *c, unsigned size, uint64_t res)
{
    c->cc.res = x_sx(res, size);
    c->cc.op = SOFT_CC(SOFT_CC_LOGIC, size);
}
X_INLINE void x_cc_sub(struct soft_cpu *c, unsigned size, uint64_t a, uint64_t b)
{
    c->cc.aux = x_sx(a, size);
    c->cc.src = x_sx(b, size);
    c->cc.op = SOFT_CC(SOFT_CC_SUB, size);
}
X_INLINE void x_cc_add(struct soft_cpu *c, unsigned size, uint64_t res, uint64_t b)
{
    c->cc.res = x_sx(res, size);
    c->cc.src = x_sx(b, size);
    c->cc.op = SOFT_CC(SOFT_CC_ADD, size);
}
/* Replace some flags, keep the others. */
X_INLINE void x_cc_merge(struct soft_cpu *c, uint32_t mask, uint32_t bits)
{
    soft_cc_set(&c->cc, (soft_cc_get(&c->cc) & ~mask) | bits);
}

/* The stack pointer's width, and a write of that width. */
X_INLINE uint64_t x_sp_mask(const struct soft_cpu *c)
{
    return c->mode == SOFT_64 ? UINT64_MAX : c->stack32 ? 0xffffffffu : 0xffffu;
}
X_INLINE void x_set_sp(struct soft_cpu *c, uint64_t v)
{
    uint64_t m = x_sp_mask(c);
    c->gpr[SOFT_RSP] = m == 0xffff ? (c->gpr[SOFT_RSP] & ~m) | (v & m) : v & m;
}
X_INLINE struct x_val x_stack(struct soft_cpu *c, uint64_t off, unsigned size, enum soft_access how)
{
    if (SOFT_LIKELY(c->mode == SOFT_64))
        return (struct x_val){off, true};
    return x_linear_slow(c, SOFT_SS, off & x_sp_mask(c), size, how);
}
/* Push without moving the stack pointer: store at sp - depth. */
X_INLINE bool x_push_at(struct soft_cpu *c, unsigned depth, unsigned size, uint64_t v)
{
    struct x_val a = x_stack(c, c->gpr[SOFT_RSP] - depth, size, SOFT_WRITE);
    return SOFT_LIKELY(a.ok) && x_st(c, a.v, size, v);
}
X_INLINE struct x_val x_peek(struct soft_cpu *c, uint64_t off, unsigned size)
{
    struct x_val a = x_stack(c, off, size, SOFT_READ);
    return SOFT_LIKELY(a.ok) ? x_ld(c, a.v, size) : a;
}

/* n <= 8 random bytes; under icount from the machine's seed and the number of `in`. false: none to be had. */
bool soft_entropy(struct soft_cpu *c, const struct soft_insn *in, void *out, unsigned n);

/* Call `fn(c, in, ..., size)` with a constant size. */
#define X_BY_SIZE(c, in, fn, ...)                                                                            \
    do {                                                                                                     \
        switch ((in)->size) {                                                                                \
        case 1:                                                                                              \
            return fn(c, in, __VA_ARGS__, 1);                                                                \
        case 2:                                                                                              \
            return fn(c, in, __VA_ARGS__, 2);                                                                \
        case 4:                                                                                              \
            return fn(c, in, __VA_ARGS__, 4);                                                                \
        default:                                                                                             \
            return fn(c, in, __VA_ARGS__, 8);                                                                \
        }                                                                                                    \
    } while (0)

/* Tables of fast handlers; NULL: none. x_*.c, chosen in bind_int.c. */
unsigned x_size_index(unsigned size);
soft_fn x_alu_fast(const struct soft_insn *in, soft_fn general);
soft_fn x_mov_fast(const struct soft_insn *in, soft_fn general);
soft_fn x_shift_fast(const struct soft_insn *in, soft_fn general);
soft_fn x_flow_fast(const struct soft_insn *in, soft_fn general);
soft_fn x_stack_fast(const struct soft_insn *in, soft_fn general);
soft_fn x_mul_fast(const struct soft_insn *in, soft_fn general);

#endif
