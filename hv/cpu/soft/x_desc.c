// SPDX-License-Identifier: Apache-2.0
/* Segment registers, descriptor tables and what asks about descriptors. */
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/optable.h"
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/x_int.h"

/* 06 0E 16 1E, 0F A0, 0F A8 name the register in the opcode. */
static unsigned sreg_of(const struct soft_insn *in)
{
    return in->opcode >> 3 & 7;
}

/* A 16-bit value to memory, or zero-extended to a register of the operand's size. */
X_INLINE soft_next x_store16(struct soft_cpu *c, const struct soft_insn *in, uint64_t v)
{
    if (in->flags & SOFT_I_MEM) {
        if (!x_st_mem(c, in, 2, (uint16_t)v))
            return soft_fault(c, in);
    } else {
        x_set(c, in->rm * 8u, in->size < 2 ? 2 : in->size, v);
    }
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(mov_from_sreg)
{
    return x_store16(c, in, c->seg[in->reg].sel);
}

/* After a load of SS nothing comes between it and the next instruction (SDM 3A, 6.8.3). */
static soft_next loaded(struct soft_cpu *c, const struct soft_insn *in, unsigned seg)
{
    uint64_t rip = soft_rip_next(c, in);
    if (seg != SOFT_SS)
        return sys_go(c, in, rip);
    soft_mode_changed(c);
    c->shadow = 2;
    return soft_done_at(c, in, rip);
}

SOFT_HANDLER(mov_to_sreg)
{
    struct x_val v =
        in->flags & SOFT_I_MEM ? x_ld_mem(c, in, 2) : (struct x_val){(uint16_t)c->gpr[in->rm], true};
    if (!v.ok || !soft_load_sreg(c, in->reg, (uint16_t)v.v))
        return soft_fault(c, in);
    return loaded(c, in, in->reg);
}

SOFT_HANDLER(push_sreg)
{
    if (!x_push_at(c, in->size, in->size, c->seg[sreg_of(in)].sel))
        return soft_fault(c, in);
    x_set_sp(c, c->gpr[SOFT_RSP] - in->size);
    SOFT_NEXT(c, in);
}

SOFT_HANDLER(pop_sreg)
{
    unsigned seg = sreg_of(in);
    struct x_val v = x_peek(c, c->gpr[SOFT_RSP], in->size);
    uint64_t sp = c->gpr[SOFT_RSP] + in->size;
    if (!v.ok)
        return soft_fault(c, in);
    if (seg == SOFT_SS) {
        uint64_t m = x_sp_mask(c);
        if (!soft_load_sreg(c, seg, (uint16_t)v.v))
            return soft_fault(c, in);
        c->gpr[SOFT_RSP] = m == 0xffff ? (c->gpr[SOFT_RSP] & ~m) | (sp & m) : sp & m;
        return loaded(c, in, seg);
    }
    if (!soft_load_sreg(c, seg, (uint16_t)v.v))
        return soft_fault(c, in);
    x_set_sp(c, sp);
    SOFT_NEXT(c, in);
}

/* LDS, LES, LFS, LGS, LSS. */
static __attribute__((noinline)) bool load_far(struct soft_cpu *c, const struct soft_insn *in, unsigned seg)
{
    uint8_t b[32] = {0};
    uint64_t lin;
    if (!soft_ea(c, in, in->size + 2u, SOFT_READ, &lin) || !soft_ld(c, lin, in->size + 2u, b) ||
        !soft_load_sreg(c, seg, (uint16_t)x_get(b + in->size, 2)))
        return false;
    x_set(c, in->reg * 8u, in->size, x_get(b, in->size));
    return true;
}
#define LOAD_FAR(name, seg)                                                                                  \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (!load_far(c, in, seg))                                                                           \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }
LOAD_FAR(les, SOFT_ES)
LOAD_FAR(lds, SOFT_DS)
LOAD_FAR(lfs, SOFT_FS)
LOAD_FAR(lgs, SOFT_GS)
SOFT_HANDLER(lss)
{
    if (!load_far(c, in, SOFT_SS))
        return soft_fault(c, in);
    soft_mode_changed(c);
    c->shadow = 2;
    return soft_done(c, in);
}

/* --- tables --- */

static __attribute__((noinline)) bool load_table(struct soft_cpu *c, const struct soft_insn *in,
                                                 struct soft_table *t)
{
    uint8_t b[32] = {0};
    uint64_t lin, base;
    unsigned n = c->mode == SOFT_64 ? 10 : 6;
    if (c->cpl)
        return sys_fail(c, SOFT_GP, 0);
    if (!soft_ea(c, in, n, SOFT_READ, &lin) || !soft_ld(c, lin, n, b))
        return false;
    base = x_get(b + 2, 8);
    if (n == 6)
        base = (uint32_t)base & (in->size == 2 ? 0xffffffu : 0xffffffffu);
    if (!soft_canonical(base))
        return sys_fail(c, SOFT_GP, 0);
    *t = (struct soft_table){.base = base, .limit = (uint16_t)x_get(b, 2)};
    return true;
}
static __attribute__((noinline)) bool store_table(struct soft_cpu *c, const struct soft_insn *in,
                                                  const struct soft_table *t)
{
    uint8_t b[32] = {0};
    uint64_t lin;
    unsigned n = c->mode == SOFT_64 ? 10 : 6;
    if (c->cpl && (c->cr4 & SOFT_CR4_UMIP))
        return sys_fail(c, SOFT_GP, 0);
    x_put(b, 2, t->limit);
    x_put(b + 2, 8, t->base);
    return soft_ea(c, in, n, SOFT_WRITE, &lin) && soft_st(c, lin, n, b);
}
#define TABLE(name, how, which)                                                                              \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (!how(c, in, &c->which))                                                                          \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }
TABLE(lgdt, load_table, gdt)
TABLE(lidt, load_table, idt)
TABLE(sgdt, store_table, gdt)
TABLE(sidt, store_table, idt)

static bool umip(const struct soft_cpu *c)
{
    return c->cpl && (c->cr4 & SOFT_CR4_UMIP);
}
SOFT_HANDLER(sldt)
{
    if (!sys_protected(c))
        return soft_raise(c, in, SOFT_UD);
    return umip(c) ? sys_gp0(c, in) : x_store16(c, in, c->seg[SOFT_LDTR].sel);
}
SOFT_HANDLER(str)
{
    if (!sys_protected(c))
        return soft_raise(c, in, SOFT_UD);
    return umip(c) ? sys_gp0(c, in) : x_store16(c, in, c->seg[SOFT_TR].sel);
}
SOFT_HANDLER(smsw)
{
    if (umip(c))
        return sys_gp0(c, in);
    return x_store16(c, in, in->size == 2 ? c->cr0 & 0xffff : c->cr0);
}

X_INLINE struct x_val x_src16(struct soft_cpu *c, const struct soft_insn *in)
{
    return in->flags & SOFT_I_MEM ? x_ld_mem(c, in, 2) : (struct x_val){(uint16_t)c->gpr[in->rm], true};
}

SOFT_HANDLER(lldt)
{
    if (!sys_protected(c))
        return soft_raise(c, in, SOFT_UD);
    if (c->cpl)
        return sys_gp0(c, in);
    struct x_val v = x_src16(c, in);
    if (!v.ok || !sys_load_ldt(c, (uint16_t)v.v, SOFT_GP, 0))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

static __attribute__((noinline)) bool load_tr(struct soft_cpu *c, uint16_t sel)
{
    uint64_t d, high = 0;
    if (!(sel & 0xfffc))
        return sys_fail(c, SOFT_GP, 0);
    if (sel & 4)
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!sys_desc(c, sel, SOFT_GP, 0, &d) || (sys_long(c) && !sys_desc_high(c, sel, SOFT_GP, 0, &high)))
        return false;
    if (D_S(d) || (D_TYPE(d) != SYS_TSS && (sys_long(c) || D_TYPE(d) != SYS_TSS16)) || (high >> 40 & 31))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, 0));
    struct soft_segment s = sys_unpack(d, sel);
    s.base |= (high & 0xffffffff) << 32;
    if (!soft_canonical(s.base))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!sys_desc_mark(c, sel, 2, 0))
        return false;
    s.type |= 2;
    c->seg[SOFT_TR] = s;
    return true;
}
SOFT_HANDLER(ltr)
{
    if (!sys_protected(c))
        return soft_raise(c, in, SOFT_UD);
    if (c->cpl)
        return sys_gp0(c, in);
    struct x_val v = x_src16(c, in);
    if (!v.ok || !load_tr(c, (uint16_t)v.v))
        return soft_fault(c, in);
    SOFT_NEXT(c, in);
}

/* --- LAR, LSL, VERR, VERW: no fault for a selector that will not do, ZF says so --- */

enum ask { ASK_LAR, ASK_LSL, ASK_VERR, ASK_VERW };

static bool system_type_ok(const struct soft_cpu *c, unsigned type, enum ask what)
{
    unsigned lar = sys_long(c) ? 0x1a04u : 0x1a3eu, lsl = sys_long(c) ? 0xa04u : 0xa0eu;
    return (what == ASK_LAR ? lar : what == ASK_LSL ? lsl : 0) >> type & 1;
}

static bool answer(const struct soft_cpu *c, uint16_t sel, uint64_t d, enum ask what)
{
    unsigned dpl = D_DPL(d), type = D_TYPE(d);
    bool visible = dpl >= c->cpl && dpl >= (sel & 3u);
    if (!D_S(d))
        return visible && system_type_ok(c, type, what);
    if (!visible && (type & 0xc) != 0xc)
        return false;
    bool code = type & 8;
    if (what == ASK_VERR)
        return !code || (type & 2);
    return what != ASK_VERW || (!code && (type & 2));
}

/* -1: fault; else ZF. *v: LAR's or LSL's result. */
static __attribute__((noinline)) int ask(struct soft_cpu *c, const struct soft_insn *in, enum ask what,
                                         uint64_t *v)
{
    uint64_t at, d;
    struct x_val s = x_src16(c, in);
    uint16_t sel = (uint16_t)s.v;
    if (!s.ok)
        return -1;
    if (!(sel & 0xfffc) || !sys_desc_at(c, sel, 8, &at))
        return 0;
    if (!sys_read(c, at, 8, &d, SOFT_MMU_KERNEL))
        return -1;
    *v = what == ASK_LAR ? d >> 32 & 0xffff00u : sys_unpack(d, sel).limit;
    return answer(c, sel, d, what);
}
static __attribute__((noinline)) bool do_ask(struct soft_cpu *c, const struct soft_insn *in, enum ask what)
{
    uint64_t v = 0;
    int zf = ask(c, in, what, &v);
    if (zf < 0)
        return false;
    if (zf && (what == ASK_LAR || what == ASK_LSL))
        x_set(c, in->reg * 8u, in->size, v);
    x_cc_merge(c, SOFT_FL_Z, zf ? SOFT_FL_Z : 0);
    return true;
}
#define ASK(name, what)                                                                                      \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        if (!sys_protected(c))                                                                               \
            return soft_raise(c, in, SOFT_UD);                                                               \
        if (!do_ask(c, in, what))                                                                            \
            return soft_fault(c, in);                                                                        \
        SOFT_NEXT(c, in);                                                                                    \
    }
ASK(lar, ASK_LAR)
ASK(lsl, ASK_LSL)
ASK(verr, ASK_VERR)
ASK(verw, ASK_VERW)
