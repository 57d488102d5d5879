// SPDX-License-Identifier: Apache-2.0
/* Far JMP, CALL, RET, and IRET. Source: Intel SDM volume 3A, 5.8, 7.3; volume 2A, their pages. */
#include "hv/cpu/soft/handlers.h"
#include "hv/cpu/soft/sys.h"

#define EFL_ARITH 0x8d5u

struct far_ptr {
    uint16_t sel;
    uint64_t rip;
};

static bool gp0(struct soft_cpu *c)
{
    return sys_fail(c, SOFT_GP, 0);
}

static bool pointer(struct soft_cpu *c, const struct soft_insn *in, struct far_ptr *p)
{
    uint8_t b[32] = {0};
    uint64_t lin, rip = 0;
    *p = (struct far_ptr){in->imm2, in->imm};
    if (!(in->flags & SOFT_I_MEM))
        return true;
    if (!soft_ea(c, in, in->size + 2u, SOFT_READ, &lin) || !soft_ld(c, lin, in->size + 2u, b))
        return false;
    memcpy(&rip, b, in->size);
    memcpy(&p->sel, b + in->size, 2);
    p->rip = rip;
    return true;
}

/* Real and virtual-8086 mode: the limit stays. */
static bool to_real(struct soft_cpu *c, struct far_ptr p)
{
    struct soft_segment *cs = &c->seg[SOFT_CS];
    if (p.rip > cs->limit)
        return gp0(c);
    cs->sel = p.sel;
    cs->base = (uint64_t)p.sel << 4;
    c->rip = p.rip;
    return true;
}

static bool push_return(struct soft_cpu *c, struct sys_stack *s, const struct soft_insn *in, unsigned size)
{
    const uint64_t f[] = {c->seg[SOFT_CS].sel, soft_rip_next(c, in)};
    return sys_push(c, s, f, 2, size);
}

static bool call_real(struct soft_cpu *c, const struct soft_insn *in, struct far_ptr p)
{
    struct sys_stack s = sys_stack_now(c);
    if (p.rip > c->seg[SOFT_CS].limit)
        return gp0(c);
    if (!push_return(c, &s, in, in->size))
        return false;
    sys_set_sp(c, &s.seg, false, s.sp);
    return to_real(c, p);
}

/* A call gate: where it leads. In long mode gates are 64-bit ones of 16 bytes. */
struct gate {
    struct far_ptr to;
    uint64_t cs; /* the code segment's descriptor */
    unsigned size, params;
};

static bool read_gate(struct soft_cpu *c, uint16_t sel, uint64_t d, struct gate *g)
{
    uint64_t high = 0;
    unsigned type = D_TYPE(d);
    if (D_DPL(d) < c->cpl || D_DPL(d) < (sel & 3u))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, 0));
    g->size = sys_long(c) ? 8 : type == SYS_CALL ? 4 : 2;
    g->params = sys_long(c) ? 0 : d >> 32 & 31;
    g->to.sel = (uint16_t)(d >> 16);
    g->to.rip = (d & 0xffff) | (g->size > 2 ? d >> 32 & 0xffff0000 : 0);
    if (sys_long(c)) {
        if (!sys_desc_high(c, sel, SOFT_GP, 0, &high))
            return false;
        if (high >> 40 & 31)
            return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
        g->to.rip |= high << 32;
    }
    if (!(g->to.sel & 0xfffc))
        return gp0(c);
    if (!sys_desc(c, g->to.sel, SOFT_GP, 0, &g->cs))
        return false;
    if (!D_CODE(g->cs) || D_DPL(g->cs) > c->cpl || (sys_long(c) && (!D_L(g->cs) || D_DB(g->cs))))
        return sys_fail(c, SOFT_GP, sys_sel(g->to.sel, 0));
    if (!D_PRESENT(g->cs))
        return sys_fail(c, SOFT_NP, sys_sel(g->to.sel, 0));
    struct soft_segment cs = sys_unpack(g->cs, g->to.sel);
    return sys_rip_ok(c, &cs, g->to.rip) || gp0(c);
}

static bool same_level(struct soft_cpu *c, uint64_t d, uint16_t sel, uint64_t rip)
{
    if (!sys_accessed(c, sel, &d))
        return false;
    sys_set_cs(c, d, sel, c->cpl);
    c->rip = rip;
    soft_mode_changed(c);
    return true;
}

static bool call_inner(struct soft_cpu *c, const struct soft_insn *in, struct gate *g)
{
    unsigned level = D_DPL(g->cs), n = 0;
    struct sys_stack old = sys_stack_now(c), s = {.flat = true, .mmu = SOFT_MMU_KERNEL, .vector = SOFT_SSF};
    uint64_t f[2 + 31 + 2], rsp = c->gpr[SOFT_RSP];
    f[n++] = c->seg[SOFT_SS].sel;
    f[n++] = rsp;
    if (sys_long(c)) {
        s.mmu = sys_mmu(c, level);
        s.seg = sys_null((uint16_t)level, level);
        if (!sys_tss64(c, 4 + 8 * level, 0, &s.sp))
            return false;
    } else if (!sys_inner_stack(c, level, 0, &s)) {
        return false;
    }
    for (unsigned i = g->params; i-- > 0;)
        if (!sys_peek(c, &old, i * g->size, g->size, &f[n++]))
            return false;
    f[n++] = c->seg[SOFT_CS].sel;
    f[n++] = soft_rip_next(c, in);
    if (!sys_accessed(c, g->to.sel, &g->cs) || !sys_push(c, &s, f, n, g->size))
        return false;
    c->seg[SOFT_SS] = s.seg;
    sys_set_sp(c, &s.seg, s.flat, s.sp);
    sys_set_cs(c, g->cs, g->to.sel, level);
    c->rip = g->to.rip;
    soft_mode_changed(c);
    return true;
}

static bool call_gate(struct soft_cpu *c, const struct soft_insn *in, uint16_t sel, uint64_t d, bool call)
{
    struct gate g;
    if (!read_gate(c, sel, d, &g))
        return false;
    bool inner = !D_CONFORMING(g.cs) && D_DPL(g.cs) < c->cpl;
    if (!call) {
        if (inner)
            return sys_fail(c, SOFT_GP, sys_sel(g.to.sel, 0));
        return same_level(c, g.cs, g.to.sel, g.to.rip);
    }
    if (inner)
        return call_inner(c, in, &g);
    struct sys_stack s = sys_stack_now(c);
    if (sys_long(c))
        s.flat = true;
    if (!push_return(c, &s, in, g.size) || !same_level(c, g.cs, g.to.sel, g.to.rip))
        return false;
    sys_set_sp(c, &c->seg[SOFT_SS], s.flat, s.sp);
    return true;
}

/* Not a code segment. */
static bool to_system(struct soft_cpu *c, const struct soft_insn *in, uint16_t sel, uint64_t d, bool call)
{
    unsigned type = D_TYPE(d);
    enum sys_switch how = call ? SWITCH_CALL : SWITCH_JMP;
    if (type == SYS_CALL || (type == SYS_CALL16 && !sys_long(c)))
        return call_gate(c, in, sel, d, call);
    bool tss = type == SYS_TSS || type == SYS_TSS16;
    if (sys_long(c) || (!tss && type != SYS_TASK_GATE))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (D_DPL(d) < c->cpl || D_DPL(d) < (sel & 3u))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, 0));
    if (tss)
        return sys_task_switch(c, sel, how, soft_rip_next(c, in), NULL, 0);
    return sys_task_gate(c, d, how, soft_rip_next(c, in), NULL, 0);
}

static bool transfer(struct soft_cpu *c, const struct soft_insn *in, bool call)
{
    struct far_ptr p;
    uint64_t d;
    if (!pointer(c, in, &p))
        return false;
    if (!sys_protected(c))
        return call ? call_real(c, in, p) : to_real(c, p);
    if (!(p.sel & 0xfffc))
        return gp0(c);
    if (!sys_desc(c, p.sel, SOFT_GP, 0, &d))
        return false;
    if (!D_S(d))
        return to_system(c, in, p.sel, d, call);
    if (!sys_check_cs(c, p.sel, d, call, 0))
        return false;
    struct soft_segment cs = sys_unpack(d, p.sel);
    if (!sys_rip_ok(c, &cs, p.rip))
        return gp0(c);
    if (!call)
        return same_level(c, d, p.sel, p.rip);
    struct sys_stack s = sys_stack_now(c);
    if (!sys_accessed(c, p.sel, &d) || !push_return(c, &s, in, in->size))
        return false;
    sys_set_sp(c, &s.seg, s.flat, s.sp);
    return same_level(c, d, p.sel, p.rip);
}

SOFT_HANDLER(jmp_far)
{
    return transfer(c, in, false) ? soft_done_at(c, in, c->rip) : soft_fault(c, in);
}
SOFT_HANDLER(call_far)
{
    return transfer(c, in, true) ? soft_done_at(c, in, c->rip) : soft_fault(c, in);
}

/* --- returns --- */

/* What a return takes from the stack. */
struct frame {
    uint64_t rip, flags, sp;
    uint16_t cs, ss;
};

/* The code segment that a return goes to. */
static bool return_cs(struct soft_cpu *c, uint16_t sel, uint64_t rip, uint64_t *d)
{
    unsigned rpl = sel & 3u;
    if (!(sel & 0xfffc))
        return gp0(c);
    if (!sys_desc(c, sel, SOFT_GP, 0, d))
        return false;
    bool ok = D_CODE(*d) && rpl >= c->cpl && (D_CONFORMING(*d) ? D_DPL(*d) <= rpl : D_DPL(*d) == rpl);
    if (!ok || (sys_long(c) && D_L(*d) && D_DB(*d)))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!D_PRESENT(*d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, 0));
    struct soft_segment cs = sys_unpack(*d, sel);
    return sys_rip_ok(c, &cs, rip) || gp0(c);
}

/* The stack segment that a return to `level` goes to; null is good for 64-bit code below level 3. */
static bool return_ss(struct soft_cpu *c, uint16_t sel, unsigned level, bool to64, struct soft_segment *ss)
{
    if (!(sel & 0xfffc) && to64 && level != 3 && (sel & 3u) == level) {
        *ss = sys_null(sel, level);
        return true;
    }
    return sys_check_ss(c, sel, level, SOFT_GP, 0, ss);
}

static bool ret_real(struct soft_cpu *c, const struct soft_insn *in, unsigned drop)
{
    struct sys_stack s = sys_stack_now(c);
    uint64_t rip, cs;
    if (!sys_peek(c, &s, 0, in->size, &rip) || !sys_peek(c, &s, in->size, in->size, &cs))
        return false;
    if (!to_real(c, (struct far_ptr){(uint16_t)cs, rip}))
        return false;
    sys_set_sp(c, &s.seg, false, s.sp + 2u * in->size + drop);
    return true;
}

static bool ret_far(struct soft_cpu *c, const struct soft_insn *in, unsigned drop)
{
    struct sys_stack s = sys_stack_now(c);
    unsigned size = in->size;
    uint64_t rip, cs, d, sp, sel;
    struct soft_segment ss = s.seg;
    if (!sys_protected(c))
        return ret_real(c, in, drop);
    if (!sys_peek(c, &s, 0, size, &rip) || !sys_peek(c, &s, size, size, &cs) ||
        !return_cs(c, (uint16_t)cs, rip, &d))
        return false;
    unsigned level = cs & 3;
    bool to64 = sys_long(c) && D_L(d);
    if (level == c->cpl) {
        if (!same_level(c, d, (uint16_t)cs, rip))
            return false;
        sys_set_sp(c, &ss, s.flat, s.sp + 2 * size + drop);
        return true;
    }
    if (!sys_peek(c, &s, 2 * size + drop, size, &sp) || !sys_peek(c, &s, 3 * size + drop, size, &sel) ||
        !return_ss(c, (uint16_t)sel, level, to64, &ss) || !sys_accessed(c, (uint16_t)cs, &d))
        return false;
    sys_set_cs(c, d, (uint16_t)cs, level);
    c->seg[SOFT_SS] = ss;
    sys_set_sp(c, &ss, to64, sp + drop);
    c->rip = rip;
    sys_drop_inner(c);
    soft_mode_changed(c);
    return true;
}

SOFT_HANDLER(ret_far)
{
    return ret_far(c, in, 0) ? soft_done_at(c, in, c->rip) : soft_fault(c, in);
}
SOFT_HANDLER(ret_far_imm)
{
    return ret_far(c, in, (uint16_t)in->imm) ? soft_done_at(c, in, c->rip) : soft_fault(c, in);
}

/* --- IRET --- */

/* Which flags an IRET at this level, with operands of `size` bytes, may change. */
static uint32_t iret_mask(const struct soft_cpu *c, unsigned size)
{
    uint32_t m = EFL_ARITH | SOFT_EFL_TF | SOFT_EFL_DF | SOFT_EFL_NT;
    if (size > 2)
        m |= SOFT_EFL_RF | SOFT_EFL_AC | SOFT_EFL_ID;
    if (!(c->cr0 & SOFT_CR0_PE) || c->cpl <= sys_iopl(c))
        m |= SOFT_EFL_IF;
    if (!c->cpl) {
        m |= SOFT_EFL_IOPL;
        if (size > 2)
            m |= SOFT_EFL_VIF | SOFT_EFL_VIP;
    }
    return m;
}
static void set_flags(struct soft_cpu *c, uint64_t v, uint32_t mask)
{
    c->eflags = (c->eflags & ~mask) | ((uint32_t)v & mask & ~EFL_ARITH);
    soft_cc_set(&c->cc, (uint32_t)v & EFL_ARITH);
}

static bool peek_frame(struct soft_cpu *c, const struct sys_stack *s, unsigned size, bool whole,
                       struct frame *f)
{
    uint64_t cs, ss = 0;
    if (!sys_peek(c, s, 0, size, &f->rip) || !sys_peek(c, s, size, size, &cs) ||
        !sys_peek(c, s, 2 * size, size, &f->flags) ||
        (whole && (!sys_peek(c, s, 3 * size, size, &f->sp) || !sys_peek(c, s, 4 * size, size, &ss))))
        return false;
    f->cs = (uint16_t)cs;
    f->ss = (uint16_t)ss;
    return true;
}

static bool iret_real(struct soft_cpu *c, const struct soft_insn *in)
{
    struct sys_stack s = sys_stack_now(c);
    struct frame f;
    uint32_t mask = iret_mask(c, in->size) & ~(SOFT_EFL_VIF | SOFT_EFL_VIP);
    if ((c->eflags & SOFT_EFL_VM) && sys_iopl(c) != 3)
        return gp0(c);
    if (!peek_frame(c, &s, in->size, false, &f) || !to_real(c, (struct far_ptr){f.cs, f.rip}))
        return false;
    sys_set_sp(c, &s.seg, false, s.sp + 3u * in->size);
    set_flags(c, f.flags, mask);
    soft_mode_changed(c);
    return true;
}

static bool iret_to_v86(struct soft_cpu *c, const struct sys_stack *s, const struct frame *f)
{
    static const uint8_t data[] = {SOFT_ES, SOFT_DS, SOFT_FS, SOFT_GS};
    uint64_t sel[4];
    for (unsigned i = 0; i < 4; i++)
        if (!sys_peek(c, s, 20 + 4 * i, 4, &sel[i]))
            return false;
    if (f->rip > 0xffff)
        return gp0(c);
    for (unsigned i = 0; i < 4; i++)
        c->seg[data[i]] = sys_real((uint16_t)sel[i], true);
    c->seg[SOFT_SS] = sys_real(f->ss, true);
    c->seg[SOFT_CS] = sys_real(f->cs, true);
    soft_set_rflags(c, f->flags);
    c->gpr[SOFT_RSP] = (uint32_t)f->sp;
    c->cpl = 3;
    c->rip = f->rip;
    soft_mode_changed(c);
    return true;
}

/* The task that the current one was called from, or interrupted. */
static bool iret_task(struct soft_cpu *c, const struct soft_insn *in)
{
    uint16_t link;
    if (sys_long(c))
        return gp0(c);
    if (!sys_read(c, c->seg[SOFT_TR].base, 2, &link, SOFT_MMU_KERNEL))
        return false;
    return sys_task_switch(c, link, SWITCH_IRET, soft_rip_next(c, in), NULL, 0);
}

static bool iret_protected(struct soft_cpu *c, const struct soft_insn *in)
{
    struct sys_stack s = sys_stack_now(c);
    struct soft_segment ss = s.seg;
    struct frame f = {0};
    unsigned size = in->size;
    uint64_t d;
    if (c->eflags & SOFT_EFL_NT)
        return iret_task(c, in);
    /* 64-bit mode always takes SS:RSP. */
    if (!peek_frame(c, &s, size, c->mode == SOFT_64, &f))
        return false;
    if ((f.flags & SOFT_EFL_VM) && size == 4 && !c->cpl && !sys_long(c))
        return peek_frame(c, &s, size, true, &f) && iret_to_v86(c, &s, &f);
    if (!return_cs(c, f.cs, f.rip, &d))
        return false;
    unsigned level = f.cs & 3u;
    bool outer = level != c->cpl, to64 = sys_long(c) && D_L(d), whole = outer || c->mode == SOFT_64;
    if (whole &&
        ((c->mode != SOFT_64 && !peek_frame(c, &s, size, true, &f)) || !return_ss(c, f.ss, level, to64, &ss)))
        return false;
    if (!sys_accessed(c, f.cs, &d))
        return false;
    set_flags(c, f.flags, iret_mask(c, size));
    sys_set_cs(c, d, f.cs, level);
    c->seg[SOFT_SS] = ss;
    if (whole)
        sys_set_sp(c, &ss, to64, f.sp);
    else
        sys_set_sp(c, &ss, false, s.sp + 3 * size);
    c->rip = f.rip;
    if (outer)
        sys_drop_inner(c);
    soft_mode_changed(c);
    return true;
}

/* IRETQ between flat 64-bit segments that look as SYSCALL and the kernel's GDT make them: every check is made
 * on the descriptors all the same, but the frame is read at once. false: nothing done, go the long way. */
SOFT_RACY static bool iret_fast(struct soft_cpu *c)
{
    uint64_t sp = c->gpr[SOFT_RSP], f[5];
    const struct soft_tlb_entry *t = &c->ways[c->mmu][sp >> 12 & (SOFT_TLB_SIZE - 1)];
    if ((sp & 7) || t->read != ((sp & ~0xfffull) | 1) || (sp & 0xfff) > 4096 - 40 || c->ac_check || c->watch)
        return false;
    const uint64_t *from = (const uint64_t *)((uintptr_t)sp + t->addend);
    for (unsigned i = 0; i < 5; i++)
        f[i] = __atomic_load_n(from + i, __ATOMIC_RELAXED);
    uint16_t cs = (uint16_t)f[1], ss = (uint16_t)f[4];
    unsigned level = cs & 3u;
    bool null = !(ss & 0xfff8);
    uint64_t dc, ds = 0;
    if (((cs | ss) & 4) || !(cs & 0xfff8) || (!(ss & 0xfff8) && level == 3) || (ss & 3u) != level ||
        level < c->cpl || (cs | 7u) > c->gdt.limit || (ss | 7u) > c->gdt.limit || !soft_canonical(f[0]))
        return false;
    if (!sys_read(c, c->gdt.base + (cs & 0xfff8u), 8, &dc, SOFT_MMU_KERNEL) ||
        (!null && !sys_read(c, c->gdt.base + (ss & 0xfff8u), 8, &ds, SOFT_MMU_KERNEL))) {
        c->exc = (struct soft_exception){0};
        return false;
    }
    /* Present, code, not conforming, accessed, L without D, of this level; present, writable, accessed data.
     */
    const uint64_t want = 1ull << 47 | 1ull << 44 | 1ull << 40 | (uint64_t)level << 45;
    if ((dc & (0x9dull << 40 | 3ull << 53 | 3ull << 45)) != (want | 1ull << 43 | 1ull << 53) ||
        (!null && (ds & (0x9bull << 40 | 3ull << 45)) != (want | 1ull << 41)))
        return false;
    bool outer = level != c->cpl;
    set_flags(c, f[2], iret_mask(c, 8));
    sys_set_cs(c, dc, cs, level);
    c->seg[SOFT_SS] = null ? sys_null(ss, level) : sys_unpack(ds, ss);
    c->gpr[SOFT_RSP] = f[3];
    c->rip = f[0];
    if (outer)
        sys_drop_inner(c);
    soft_mode_changed(c);
    return true;
}

SOFT_HANDLER(iret)
{
    bool ok;
    if (SOFT_LIKELY(c->mode == SOFT_64 && in->size == 8 && !(c->eflags & SOFT_EFL_NT) && iret_fast(c)))
        ok = true;
    else
        ok = sys_protected(c) ? iret_protected(c, in) : iret_real(c, in);
    if (!ok)
        return soft_fault(c, in);
    c->nmi_masked = false;
    if (c->exc.pending)
        return soft_done_at(c, in, c->rip);
    return sys_go(c, in, c->rip);
}
