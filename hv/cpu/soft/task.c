// SPDX-License-Identifier: Apache-2.0
/* Task switches. Source: Intel SDM volume 3A, chapter 7. */
#include "hv/cpu/soft/sys.h"

#define TSS32_MIN 0x67u
#define TSS16_MIN 0x2bu

/* Where things lie in the two forms of a TSS. */
struct layout {
    unsigned size;      /* of a register */
    unsigned ip, flags; /* the latter is followed by AX CX DX BX SP BP SI DI, ES CS SS DS (FS GS), LDT */
    unsigned segs, seg_count, ldt, min;
};
static const struct layout wide = {4, 32, 36, 72, 6, 96, TSS32_MIN};
static const struct layout narrow = {2, 14, 16, 34, 4, 42, TSS16_MIN};

static const struct layout *layout_of(unsigned type)
{
    return type & 8 ? &wide : &narrow;
}

static bool sys_get(struct soft_cpu *c, uint64_t at, unsigned size, uint64_t *v)
{
    *v = 0;
    return sys_read(c, at, size, v, SOFT_MMU_KERNEL);
}

bool sys_inner_stack(struct soft_cpu *c, unsigned cpl, uint32_t ext, struct sys_stack *out)
{
    const struct soft_segment *tr = &c->seg[SOFT_TR];
    bool is32 = tr->type & 8;
    unsigned at = is32 ? 4 + 8 * cpl : 2 + 4 * cpl, size = is32 ? 4 : 2;
    uint64_t sp, ss;
    if (at + size + 1 > tr->limit)
        return sys_fail(c, SOFT_TS, sys_sel(tr->sel, ext));
    if (!sys_get(c, tr->base + at, size, &sp) || !sys_get(c, tr->base + at + size, 2, &ss) ||
        !sys_check_ss(c, (uint16_t)ss, cpl, SOFT_TS, ext, &out->seg))
        return false;
    out->sp = sp;
    out->flat = false;
    out->mmu = sys_mmu(c, cpl);
    out->vector = SOFT_SSF;
    out->error = sys_sel((uint16_t)ss, ext);
    return true;
}

struct tss {
    uint16_t sel;
    struct soft_segment seg;
    const struct layout *l;
    uint64_t cr3, ip, flags, gpr[8];
    uint16_t sreg[6], ldt;
    bool trap;
};

/* The descriptor's checks. */
static bool find_tss(struct soft_cpu *c, uint16_t sel, enum sys_switch how, uint32_t ext, struct tss *t)
{
    uint64_t d;
    unsigned vector = how == SWITCH_IRET ? SOFT_TS : SOFT_GP;
    if ((sel & 4) || !(sel & 0xfffc))
        return sys_fail(c, vector, sys_sel(sel, ext));
    if (!sys_desc(c, sel, vector, ext, &d))
        return false;
    unsigned type = D_TYPE(d), free_type = how == SWITCH_IRET ? type & ~2u : type;
    bool busy = type & 2;
    if (D_S(d) || (free_type != SYS_TSS && free_type != SYS_TSS16) || busy != (how == SWITCH_IRET))
        return sys_fail(c, vector, sys_sel(sel, ext));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, ext));
    t->sel = sel;
    t->seg = sys_unpack(d, sel);
    t->l = layout_of(type);
    return t->seg.limit >= t->l->min || sys_fail(c, SOFT_TS, sys_sel(sel, ext));
}

/* Read the new task's state. */
static bool read_tss(struct soft_cpu *c, struct tss *t)
{
    const struct layout *l = t->l;
    uint64_t base = t->seg.base, v;
    t->cr3 = c->cr3;
    if (l == &wide) {
        if (!sys_get(c, base + 28, 4, &t->cr3) || !sys_get(c, base + 100, 2, &v))
            return false;
        t->trap = v & 1;
    }
    if (!sys_get(c, base + l->ip, l->size, &t->ip) || !sys_get(c, base + l->flags, l->size, &t->flags))
        return false;
    for (unsigned i = 0; i < 8; i++)
        if (!sys_get(c, base + l->flags + l->size * (i + 1), l->size, &t->gpr[i]))
            return false;
    for (unsigned i = 0; i < l->seg_count; i++) {
        if (!sys_get(c, base + l->segs + l->size * i, 2, &v))
            return false;
        t->sreg[i] = (uint16_t)v;
    }
    if (!sys_get(c, base + l->ldt, 2, &v))
        return false;
    t->ldt = (uint16_t)v;
    return true;
}

/* Save the old task's state; probed as a whole before. */
static bool save_tss(struct soft_cpu *c, uint64_t rip, uint64_t flags)
{
    const struct soft_segment *tr = &c->seg[SOFT_TR];
    const struct layout *l = layout_of(tr->type);
    uint64_t base = tr->base;
    unsigned end = l->segs + l->size * l->seg_count;
    if (tr->limit < l->min)
        return sys_fail(c, SOFT_TS, sys_sel(tr->sel, 0));
    for (unsigned at = l->ip; at < end; at += l->size)
        if (!sys_probe(c, base + at, l->size, SOFT_WRITE, SOFT_MMU_KERNEL))
            return false;
    if (!sys_write(c, base + l->ip, l->size, &rip, SOFT_MMU_KERNEL) ||
        !sys_write(c, base + l->flags, l->size, &flags, SOFT_MMU_KERNEL))
        return false;
    for (unsigned i = 0; i < 8; i++)
        if (!sys_write(c, base + l->flags + l->size * (i + 1), l->size, &c->gpr[i], SOFT_MMU_KERNEL))
            return false;
    for (unsigned i = 0; i < l->seg_count; i++)
        if (!sys_write(c, base + l->segs + l->size * i, 2, &c->seg[i].sel, SOFT_MMU_KERNEL))
            return false;
    return true;
}

/* From here on faults are the new task's. Order: SDM 3A, 7.3, and table 7-1. */
static bool load_cs(struct soft_cpu *c, uint16_t sel)
{
    uint64_t d;
    unsigned rpl = sel & 3u;
    if (!(sel & 0xfffc))
        return sys_fail(c, SOFT_TS, sys_sel(sel, 0));
    if (!sys_desc(c, sel, SOFT_TS, 0, &d))
        return false;
    if (!D_CODE(d) || (D_CONFORMING(d) ? D_DPL(d) > rpl : D_DPL(d) != rpl))
        return sys_fail(c, SOFT_TS, sys_sel(sel, 0));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, 0));
    if (!sys_accessed(c, sel, &d))
        return false;
    sys_set_cs(c, d, sel, rpl);
    return true;
}

static bool load_segments(struct soft_cpu *c, const struct tss *t)
{
    static const uint8_t data[] = {SOFT_ES, SOFT_DS, SOFT_FS, SOFT_GS};
    unsigned level = t->sreg[SOFT_CS] & 3u;
    for (unsigned i = 0; i < SOFT_LDTR; i++)
        c->seg[i] = sys_null(t->sreg[i], level);
    c->seg[SOFT_CS].sel = t->sreg[SOFT_CS];
    c->cpl = (uint8_t)level;
    if (t->flags & SOFT_EFL_VM && t->l == &wide) {
        for (unsigned i = 0; i < SOFT_LDTR; i++)
            c->seg[i] = sys_real(t->sreg[i], true);
        c->cpl = 3;
        return sys_load_ldt(c, t->ldt, SOFT_TS, 0);
    }
    c->seg[SOFT_LDTR] = sys_null(t->ldt, 0);
    struct soft_segment ss;
    if (!sys_load_ldt(c, t->ldt, SOFT_TS, 0) || !load_cs(c, t->sreg[SOFT_CS]) ||
        !sys_check_ss(c, t->sreg[SOFT_SS], level, SOFT_TS, 0, &ss))
        return false;
    c->seg[SOFT_SS] = ss;
    for (unsigned i = 0; i < sizeof data; i++)
        if (!soft_load_sreg(c, data[i], t->sreg[data[i]])) {
            if (c->exc.vector == SOFT_GP)
                c->exc.vector = SOFT_TS;
            return false;
        }
    return true;
}

static void load_registers(struct soft_cpu *c, const struct tss *t)
{
    bool is32 = t->l == &wide;
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = is32 ? t->gpr[i] : (c->gpr[i] & 0xffff0000) | t->gpr[i];
    soft_set_rflags(c, is32 ? t->flags : (c->eflags & ~(0xffffu | SOFT_EFL_VM)) | t->flags);
    c->rip = t->ip;
}

/* Marks that belong to the old task, and the link of the new one. */
static bool change_marks(struct soft_cpu *c, const struct tss *t, enum sys_switch how)
{
    bool nested = how == SWITCH_CALL || how == SWITCH_GATE;
    if (nested && !sys_write(c, t->seg.base, 2, &c->seg[SOFT_TR].sel, SOFT_MMU_KERNEL))
        return false;
    if (!nested && !sys_desc_mark(c, c->seg[SOFT_TR].sel, 0, 2))
        return false;
    return how == SWITCH_IRET || sys_desc_mark(c, t->sel, 2, 0);
}

static bool push_error(struct soft_cpu *c, const struct tss *t, uint32_t error)
{
    struct sys_stack s = sys_stack_now(c);
    const uint64_t v = error;
    s.mmu = sys_mmu(c, c->cpl);
    if (!sys_push(c, &s, &v, 1, t->l->size))
        return false;
    sys_set_sp(c, &s.seg, false, s.sp);
    return true;
}

bool sys_task_switch(struct soft_cpu *c, uint16_t sel, enum sys_switch how, uint64_t rip,
                     const uint32_t *error, uint32_t ext)
{
    struct tss t = {0};
    uint64_t flags = soft_rflags(c);
    if (!find_tss(c, sel, how, ext, &t) || !read_tss(c, &t))
        return false;
    if (how == SWITCH_IRET)
        flags &= ~(uint64_t)SOFT_EFL_NT;
    if (t.l == &wide && (c->cr0 & SOFT_CR0_PG) && (c->cr4 & SOFT_CR4_PAE) && !soft_load_pdptrs(c, t.cr3))
        return false;
    if (!save_tss(c, rip, flags) || !change_marks(c, &t, how))
        return false;
    c->seg[SOFT_TR] = t.seg;
    c->seg[SOFT_TR].type |= 2;
    c->cr0 |= SOFT_CR0_TS;
    if (t.l == &wide && (c->cr0 & SOFT_CR0_PG)) {
        c->cr3 = (uint32_t)t.cr3;
        soft_tlb_flush(c);
    }
    if (how == SWITCH_CALL || how == SWITCH_GATE)
        t.flags |= SOFT_EFL_NT;
    load_registers(c, &t);
    c->dr[7] &= ~0x155ull; /* local breakpoints are the old task's */
    bool ok = load_segments(c, &t);
    soft_mode_changed(c);
    if (ok && c->rip > c->seg[SOFT_CS].limit)
        ok = sys_fail(c, SOFT_GP, 0);
    if (ok && error)
        ok = push_error(c, &t, *error);
    if (ok && t.trap) {
        soft_exc(c, SOFT_DB);
        c->exc.dr6 = 0x8000;
    }
    if (!ok && ext)
        c->exc.error |= c->exc.vector == SOFT_PFX ? 0 : ext;
    return true;
}

bool sys_task_gate(struct soft_cpu *c, uint64_t d, enum sys_switch how, uint64_t rip, const uint32_t *error,
                   uint32_t ext)
{
    uint16_t sel = (uint16_t)(d >> 16);
    return sys_task_switch(c, sel, how, rip, error, ext);
}
