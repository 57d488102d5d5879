// SPDX-License-Identifier: Apache-2.0
/* Exceptions and interrupts through the IDT. Source: Intel SDM volume 3A, chapter 6; virtual-8086 mode:
 * chapter 20. */
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"

#define DR7_GD 0x2000u
#define IDT_ERROR 2u
#define RFLAGS_OFF (SOFT_EFL_TF | SOFT_EFL_NT | SOFT_EFL_RF | SOFT_EFL_VM)

static uint32_t ext_of(const struct sys_event *ev)
{
    return !ev->internal;
}

static bool gate_error(struct soft_cpu *c, const struct sys_event *ev, unsigned vector)
{
    return sys_fail(c, vector, ev->vector * 8u | IDT_ERROR | ext_of(ev));
}

/* The flags as the handler finds them on its stack. */
static uint64_t image(const struct soft_cpu *c, const struct sys_event *ev)
{
    return soft_rflags(c) | (ev->fault ? SOFT_EFL_RF : 0);
}

/* The handler's code segment, for a gate's selector. *level: the CPL it runs at. */
static bool handler_cs(struct soft_cpu *c, uint16_t sel, uint32_t ext, uint64_t *d, unsigned *level)
{
    if (!(sel & 0xfffc))
        return sys_fail(c, SOFT_GP, ext);
    if (!sys_desc(c, sel, SOFT_GP, ext, d))
        return false;
    if (!D_CODE(*d) || D_DPL(*d) > c->cpl || (sys_long(c) && (!D_L(*d) || D_DB(*d))))
        return sys_fail(c, SOFT_GP, sys_sel(sel, ext));
    if (!D_PRESENT(*d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, ext));
    *level = D_CONFORMING(*d) ? c->cpl : D_DPL(*d);
    return true;
}

/* --- long mode --- */

bool sys_tss64(struct soft_cpu *c, unsigned offset, uint32_t ext, uint64_t *rsp)
{
    const struct soft_segment *tr = &c->seg[SOFT_TR];
    if (offset + 7 > tr->limit)
        return sys_fail(c, SOFT_TS, sys_sel(tr->sel, ext));
    if (!sys_read(c, tr->base + offset, 8, rsp, SOFT_MMU_KERNEL))
        return false;
    return soft_canonical(*rsp) || sys_fail(c, SOFT_SSF, ext);
}

/* Write n words below sp; fast where they lie in one page that the TLB knows. */
SOFT_RACY static bool push64(struct soft_cpu *c, uint64_t sp, const uint64_t *f, unsigned n, unsigned level,
                             uint32_t ext)
{
    enum soft_mmu mmu = level == 3 ? SOFT_MMU_USER : SOFT_MMU_KERNEL;
    const struct soft_tlb_entry *t = &c->ways[mmu][sp >> 12 & (SOFT_TLB_SIZE - 1)];
    if (SOFT_LIKELY(t->write == ((sp & ~0xfffull) | 1) && (sp & 0xfff) <= 4096 - 8 * n && !(sp & 7))) {
        uint64_t *to = (uint64_t *)((uintptr_t)sp + t->addend);
        for (unsigned i = 0; i < n; i++)
            __atomic_store_n(to + i, f[i], __ATOMIC_RELAXED);
        return true;
    }
    if (!soft_canonical(sp) || !soft_canonical(sp + 8 * n - 1))
        return sys_fail(c, SOFT_SSF, ext);
    /* They are pushed from the top: so is the first fault. */
    for (unsigned i = n; i-- > 0;)
        if (!sys_probe(c, sp + 8 * i, 8, SOFT_WRITE, mmu))
            return false;
    return sys_write(c, sp, 8 * n, f, mmu);
}

static bool deliver64(struct soft_cpu *c, const struct sys_event *ev)
{
    uint64_t gate[2], d, sp = c->gpr[SOFT_RSP], frame[6];
    uint32_t ext = ext_of(ev);
    unsigned level, n = 0, at = ev->vector * 16u;
    if (at + 15 > c->idt.limit)
        return gate_error(c, ev, SOFT_GP);
    if (!sys_read(c, c->idt.base + at, 16, gate, SOFT_MMU_KERNEL))
        return false;
    unsigned type = D_TYPE(gate[0]);
    if (D_S(gate[0]) || (type != SYS_INT && type != SYS_TRAP) || (ev->soft && D_DPL(gate[0]) < c->cpl))
        return gate_error(c, ev, SOFT_GP);
    if (!D_PRESENT(gate[0]))
        return gate_error(c, ev, SOFT_NP);
    uint16_t sel = (uint16_t)(gate[0] >> 16);
    uint64_t rip = (gate[0] & 0xffff) | (gate[0] >> 32 & 0xffff0000) | gate[1] << 32;
    unsigned ist = gate[0] >> 32 & 7;
    if (!handler_cs(c, sel, ext, &d, &level))
        return false;
    if (ist) {
        if (!sys_tss64(c, 28 + 8 * ist, ext, &sp))
            return false;
    } else if (level != c->cpl && !sys_tss64(c, 4 + 8 * level, ext, &sp)) {
        return false;
    }
    if (!soft_canonical(rip))
        return sys_fail(c, SOFT_GP, ext);
    if (!sys_accessed(c, sel, &d))
        return false;
    if (ev->has_error)
        frame[n++] = ev->error;
    frame[n++] = ev->rip;
    frame[n++] = c->seg[SOFT_CS].sel;
    frame[n++] = image(c, ev);
    frame[n++] = c->gpr[SOFT_RSP];
    frame[n++] = c->seg[SOFT_SS].sel;
    sp = (sp & ~15ull) - 8 * n;
    if (!push64(c, sp, frame, n, level, ext))
        return false;
    if (level != c->cpl)
        c->seg[SOFT_SS] = sys_null((uint16_t)level, level);
    c->gpr[SOFT_RSP] = sp;
    sys_set_cs(c, d, sel, level);
    c->eflags &= ~(RFLAGS_OFF | (type == SYS_INT ? SOFT_EFL_IF : 0));
    c->rip = rip;
    soft_mode_changed(c);
    return true;
}

/* --- real mode --- */

static bool deliver_real(struct soft_cpu *c, const struct sys_event *ev)
{
    uint32_t vector;
    unsigned at = ev->vector * 4u;
    const uint64_t frame[] = {(uint16_t)image(c, ev), c->seg[SOFT_CS].sel, (uint16_t)ev->rip};
    struct sys_stack s = sys_stack_now(c);
    if (at + 3 > c->idt.limit) {
        soft_exc(c, SOFT_GP);
        return false;
    }
    if (!sys_read(c, c->idt.base + at, 4, &vector, SOFT_MMU_KERNEL) || !sys_push(c, &s, frame, 3, 2))
        return false;
    sys_set_sp(c, &s.seg, false, s.sp);
    c->seg[SOFT_CS].sel = (uint16_t)(vector >> 16);
    c->seg[SOFT_CS].base = (uint64_t)(vector >> 16) << 4;
    c->eflags &= ~(SOFT_EFL_IF | SOFT_EFL_TF | SOFT_EFL_AC | SOFT_EFL_RF);
    c->rip = (uint16_t)vector;
    soft_mode_changed(c);
    return true;
}

/* --- protected mode --- */

/* What the handler finds on its stack, the outermost value first. */
static unsigned legacy_frame(const struct soft_cpu *c, const struct sys_event *ev, bool inner, uint64_t *f)
{
    static const uint8_t data[] = {SOFT_GS, SOFT_FS, SOFT_DS, SOFT_ES};
    unsigned n = 0;
    if (c->eflags & SOFT_EFL_VM)
        for (unsigned i = 0; i < sizeof data; i++)
            f[n++] = c->seg[data[i]].sel;
    if (inner) {
        f[n++] = c->seg[SOFT_SS].sel;
        f[n++] = (uint32_t)c->gpr[SOFT_RSP];
    }
    f[n++] = (uint32_t)image(c, ev);
    f[n++] = c->seg[SOFT_CS].sel;
    f[n++] = (uint32_t)ev->rip;
    if (ev->has_error)
        f[n++] = ev->error;
    return n;
}

static void leave_v86(struct soft_cpu *c)
{
    static const uint8_t data[] = {SOFT_GS, SOFT_FS, SOFT_DS, SOFT_ES};
    for (unsigned i = 0; i < sizeof data; i++)
        c->seg[data[i]] = sys_null(0, 0);
}

/* Through an interrupt or trap gate. */
static bool through_gate(struct soft_cpu *c, const struct sys_event *ev, uint64_t gate)
{
    unsigned type = D_TYPE(gate), level, n, size = type & 8 ? 4 : 2;
    uint32_t ext = ext_of(ev);
    uint16_t sel = (uint16_t)(gate >> 16);
    uint64_t rip = (gate & 0xffff) | (size == 4 ? gate >> 32 & 0xffff0000 : 0), d, frame[10];
    bool v86 = c->eflags & SOFT_EFL_VM;
    struct sys_stack s = sys_stack_now(c);
    if (!handler_cs(c, sel, ext, &d, &level))
        return false;
    if (v86 && level)
        return sys_fail(c, SOFT_GP, sys_sel(sel, ext));
    bool inner = level != c->cpl;
    s.error = ext;
    if (inner && !sys_inner_stack(c, level, ext, &s))
        return false;
    struct soft_segment cs = sys_unpack(d, sel);
    if (rip > cs.limit)
        return sys_fail(c, SOFT_GP, ext);
    n = legacy_frame(c, ev, inner, frame);
    if (!sys_accessed(c, sel, &d) || !sys_push(c, &s, frame, n, size))
        return false;
    if (inner)
        c->seg[SOFT_SS] = s.seg;
    sys_set_sp(c, &s.seg, false, s.sp);
    if (v86)
        leave_v86(c);
    c->eflags &= ~(RFLAGS_OFF | (type & 1 ? 0 : SOFT_EFL_IF));
    sys_set_cs(c, d, sel, level);
    c->rip = rip;
    soft_mode_changed(c);
    return true;
}

static bool deliver_protected(struct soft_cpu *c, const struct sys_event *ev)
{
    unsigned at = ev->vector * 8u;
    uint64_t gate;
    if (at + 7 > c->idt.limit)
        return gate_error(c, ev, SOFT_GP);
    if (!sys_read(c, c->idt.base + at, 8, &gate, SOFT_MMU_KERNEL))
        return false;
    unsigned type = D_TYPE(gate);
    bool known = type == SYS_TASK_GATE || (type & 7) == SYS_INT16 || (type & 7) == SYS_TRAP16;
    if (D_S(gate) || !known || (ev->soft && D_DPL(gate) < c->cpl))
        return gate_error(c, ev, SOFT_GP);
    if (!D_PRESENT(gate))
        return gate_error(c, ev, SOFT_NP);
    if (type == SYS_TASK_GATE)
        return sys_task_gate(c, gate, SWITCH_GATE, ev->rip, ev->has_error ? &ev->error : NULL, ext_of(ev));
    return through_gate(c, ev, gate);
}

bool sys_deliver(struct soft_cpu *c, const struct sys_event *ev)
{
    bool ok;
    if (sys_long(c))
        ok = deliver64(c, ev);
    else if (c->cr0 & SOFT_CR0_PE)
        ok = deliver_protected(c, ev);
    else
        ok = deliver_real(c, ev);
    if (!ok && c->exc.canonical)
        c->exc.canonical = false;
    return ok;
}

/* --- exceptions and their combinations (SDM 3A, table 6-5) --- */

static bool contributory(unsigned v)
{
    return v == SOFT_DE || (v >= SOFT_TS && v <= SOFT_GP);
}

static bool doubles(unsigned first, unsigned second)
{
    if (first == SOFT_PFX)
        return contributory(second) || second == SOFT_PFX;
    return contributory(first) && contributory(second);
}

static bool pushes_error(unsigned v)
{
    return v == SOFT_DF || (v >= SOFT_TS && v <= SOFT_PFX) || v == SOFT_AC || v == 21;
}

/* What an exception leaves in registers before its handler is called. */
static void note(struct soft_cpu *c, const struct soft_exception *x)
{
    if (x->vector == SOFT_PFX)
        c->cr2 = x->cr2;
    if (x->vector == SOFT_DB) {
        c->dr[6] = (c->dr[6] & ~0xfull) | x->dr6;
        c->dr[7] &= ~(uint64_t)DR7_GD;
    }
}

/* Did the exception come before its instruction? #DB does for instruction breakpoints and GD. */
static bool is_fault(const struct soft_cpu *c, const struct soft_exception *x)
{
    if (x->vector != SOFT_DB)
        return x->vector != SOFT_BP && x->vector != SOFT_OFX && x->vector != SOFT_MC;
    if (x->dr6 & 0x2000)
        return true;
    for (unsigned i = 0; i < 4; i++)
        if ((x->dr6 >> i & 1) && (c->breaks >> i & 1))
            return true;
    return false;
}

static void deliver_from(struct soft_cpu *c, struct soft_exception x)
{
    bool real = !(c->cr0 & SOFT_CR0_PE);
    for (;;) {
        struct sys_event ev = {.vector = x.vector,
                               .has_error = x.has_error && pushes_error(x.vector) && !real,
                               .error = x.error,
                               .fault = is_fault(c, &x) && x.vector != SOFT_DF,
                               .rip = c->rip};
        note(c, &x);
        c->exc = (struct soft_exception){0};
        c->shadow = 0;
        if (sys_deliver(c, &ev))
            return;
        struct soft_exception second = c->exc;
        c->exc = (struct soft_exception){0};
        if (x.vector == SOFT_DF) {
            soft_crash(c, "triple fault");
            return;
        }
        if (doubles(x.vector, second.vector)) {
            note(c, &second);
            second = (struct soft_exception){.vector = SOFT_DF, .has_error = true};
        }
        x = second;
    }
}

void soft_deliver_exception(struct soft_cpu *c)
{
    struct soft_exception x = c->exc;
    /* An exception whose sender gave no code (loaded state) still has one on the stack. */
    x.has_error = x.has_error || pushes_error(x.vector);
    deliver_from(c, x);
}

static void external(struct soft_cpu *c, unsigned vector)
{
    struct sys_event ev = {.vector = (uint8_t)vector, .rip = c->rip};
    c->shadow = 0;
    if (sys_deliver(c, &ev))
        return;
    struct soft_exception x = c->exc;
    deliver_from(c, x);
}

void soft_deliver_interrupt(struct soft_cpu *c, unsigned vector)
{
    external(c, vector);
}

void soft_deliver_nmi(struct soft_cpu *c)
{
    c->nmi_masked = true;
    external(c, SOFT_NMI);
}
