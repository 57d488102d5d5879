// SPDX-License-Identifier: Apache-2.0
/* Segment descriptors: reading, checks, loading. Source: Intel SDM volume 3A, 3.4, 3.5, 5.5 to 5.8. */
#include "hv/cpu/soft/sys.h"
#include "hv/cpu/soft/vm.h"

/* --- memory --- */

static unsigned spans(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how,
                      enum soft_mmu mmu, struct soft_span s[2])
{
    bool wrap = !sys_long(c);
    unsigned room = 4096 - (lin & 0xfff);
    if (wrap)
        lin = (uint32_t)lin;
    if (SOFT_LIKELY(size <= room))
        return soft_resolve(c, lin, size, how, mmu, &s[0]);
    uint64_t next = wrap ? (uint32_t)(lin + room) : lin + room;
    if (!soft_resolve(c, lin, room, how, mmu, &s[0]) || !soft_resolve(c, next, size - room, how, mmu, &s[1]))
        return 0;
    return 2;
}

bool sys_probe(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how, enum soft_mmu mmu)
{
    struct soft_span s[2];
    return spans(c, lin, size, how, mmu, s);
}

bool sys_read(struct soft_cpu *c, uint64_t lin, unsigned size, void *out, enum soft_mmu mmu)
{
    struct soft_span s[2];
    unsigned n = spans(c, lin, size, SOFT_READ, mmu, s);
    if (n)
        soft_spans_read(c, s, n, out);
    return n;
}

bool sys_write(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in, enum soft_mmu mmu)
{
    struct soft_span s[2];
    unsigned n = spans(c, lin, size, SOFT_WRITE, mmu, s);
    if (n)
        soft_spans_write(c, s, n, in);
    return n;
}

/* --- stacks --- */

struct sys_stack sys_stack_now(const struct soft_cpu *c)
{
    return (struct sys_stack){.seg = c->seg[SOFT_SS],
                              .sp = c->gpr[SOFT_RSP],
                              .flat = c->mode == SOFT_64,
                              .mmu = c->mmu,
                              .vector = SOFT_SSF};
}

/* Linear address of `size` bytes at sp of the stack. */
static bool stack_at(struct soft_cpu *c, const struct sys_stack *s, uint64_t sp, unsigned size, uint64_t *lin)
{
    if (s->flat) {
        *lin = sp;
        if (soft_canonical(sp) && soft_canonical(sp + size - 1))
            return true;
        return sys_fail(c, s->vector, s->error);
    }
    uint32_t off = s->seg.db ? (uint32_t)sp : (uint16_t)sp;
    uint64_t last = (uint64_t)off + size - 1;
    *lin = (uint32_t)(s->seg.base + off);
    bool down = (s->seg.type & 0xc) == 4;
    if (down ? off > s->seg.limit && last <= (s->seg.db ? 0xffffffffull : 0xffffull) : last <= s->seg.limit)
        return true;
    return sys_fail(c, s->vector, s->error);
}

bool sys_push(struct soft_cpu *c, struct sys_stack *s, const uint64_t *v, unsigned n, unsigned size)
{
    uint64_t lin;
    /* The lowest first would be one probe; each slot may wrap or cross on its own. */
    for (unsigned i = 1; i <= n; i++)
        if (!stack_at(c, s, s->sp - (uint64_t)i * size, size, &lin) ||
            !sys_probe(c, lin, size, SOFT_WRITE, s->mmu))
            return false;
    for (unsigned i = 1; i <= n; i++)
        if (!stack_at(c, s, s->sp - (uint64_t)i * size, size, &lin) ||
            !sys_write(c, lin, size, &v[i - 1], s->mmu))
            return false;
    s->sp -= (uint64_t)n * size;
    return true;
}

bool sys_peek(struct soft_cpu *c, const struct sys_stack *s, unsigned at, unsigned size, uint64_t *v)
{
    uint64_t lin;
    *v = 0;
    return stack_at(c, s, s->sp + at, size, &lin) && sys_read(c, lin, size, v, s->mmu);
}

void sys_set_sp(struct soft_cpu *c, const struct soft_segment *ss, bool flat, uint64_t sp)
{
    if (flat)
        c->gpr[SOFT_RSP] = sp;
    else if (ss->db)
        c->gpr[SOFT_RSP] = (uint32_t)sp;
    else
        c->gpr[SOFT_RSP] = (c->gpr[SOFT_RSP] & ~0xffffull) | (uint16_t)sp;
}

/* --- descriptors --- */

bool sys_desc_at(const struct soft_cpu *c, uint16_t sel, unsigned bytes, uint64_t *at)
{
    uint32_t off = sel & 0xfff8u;
    const struct soft_segment *ldt = &c->seg[SOFT_LDTR];
    if (!(sel & 4)) {
        *at = c->gdt.base + off;
        return off + bytes - 1 <= c->gdt.limit;
    }
    *at = ldt->base + off;
    return !ldt->unusable && ldt->present && off + bytes - 1 <= ldt->limit;
}

bool sys_desc(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext, uint64_t *d)
{
    uint64_t at;
    if (!sys_desc_at(c, sel, 8, &at))
        return sys_fail(c, vector, sys_sel(sel, ext));
    return sys_read(c, at, 8, d, SOFT_MMU_KERNEL);
}

bool sys_desc_high(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext, uint64_t *d)
{
    uint64_t at;
    if (!sys_desc_at(c, sel, 16, &at))
        return sys_fail(c, vector, sys_sel(sel, ext));
    return sys_read(c, at + 8, 8, d, SOFT_MMU_KERNEL);
}

struct soft_segment sys_unpack(uint64_t d, uint16_t sel)
{
    struct soft_segment s = {.base = (d >> 16 & 0xffffff) | (d >> 56 & 0xff) << 24,
                             .limit = (uint32_t)((d & 0xffff) | (d >> 32 & 0xf0000)),
                             .sel = sel,
                             .type = (uint8_t)D_TYPE(d),
                             .dpl = (uint8_t)D_DPL(d),
                             .present = D_PRESENT(d),
                             .s = D_S(d),
                             .db = D_DB(d),
                             .l = D_L(d),
                             .g = d >> 55 & 1,
                             .avl = d >> 52 & 1};
    if (s.g)
        s.limit = s.limit << 12 | 0xfff;
    return s;
}

SOFT_RACY static void change_byte(uint8_t *p, uint8_t set, uint8_t clear)
{
    uint8_t was = __atomic_load_n(p, __ATOMIC_RELAXED);
    while (!__atomic_compare_exchange_n(p, &was, (uint8_t)((was | set) & ~clear), false, __ATOMIC_SEQ_CST,
                                        __ATOMIC_RELAXED))
        ;
}

bool sys_desc_mark(struct soft_cpu *c, uint16_t sel, uint8_t set, uint8_t clear)
{
    struct soft_span s;
    uint64_t at;
    if (!sys_desc_at(c, sel, 8, &at))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    at += 5;
    if (!sys_long(c))
        at = (uint32_t)at;
    if (!soft_resolve(c, at, 1, SOFT_WRITE, SOFT_MMU_KERNEL, &s))
        return false;
    if (s.host) {
        change_byte(s.host, set, clear);
        if (!s.way)
            soft_ram_written(c, s.host, 1);
    }
    return true;
}

struct soft_segment sys_null(uint16_t sel, unsigned dpl)
{
    return (struct soft_segment){.sel = sel, .dpl = (uint8_t)dpl, .unusable = true};
}

struct soft_segment sys_real(uint16_t sel, bool v86)
{
    return (struct soft_segment){.base = (uint64_t)sel << 4,
                                 .limit = 0xffff,
                                 .sel = sel,
                                 .type = 3,
                                 .dpl = v86 ? 3 : 0,
                                 .present = true,
                                 .s = true};
}

/* --- loads --- */

bool sys_check_ss(struct soft_cpu *c, uint16_t sel, unsigned cpl, unsigned vector, uint32_t ext,
                  struct soft_segment *out)
{
    uint64_t d;
    if (!(sel & 0xfffc))
        return sys_fail(c, vector, vector == SOFT_TS ? sys_sel(sel, ext) : ext);
    if (!sys_desc(c, sel, vector, ext, &d))
        return false;
    if ((sel & 3u) != cpl || !D_S(d) || (D_TYPE(d) & 8) || !(D_TYPE(d) & 2) || D_DPL(d) != cpl)
        return sys_fail(c, vector, sys_sel(sel, ext));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_SSF, sys_sel(sel, ext));
    if (!sys_accessed(c, sel, &d))
        return false;
    *out = sys_unpack(d, sel);
    return true;
}

static bool load_ss(struct soft_cpu *c, uint16_t sel)
{
    struct soft_segment s;
    if (!(sel & 0xfffc)) {
        if (c->mode != SOFT_64 || c->cpl == 3 || (sel & 3u) != c->cpl)
            return sys_fail(c, SOFT_GP, 0);
        c->seg[SOFT_SS] = sys_null(sel, c->cpl);
        return true;
    }
    if (!sys_check_ss(c, sel, c->cpl, SOFT_GP, 0, &s))
        return false;
    c->seg[SOFT_SS] = s;
    return true;
}

static bool load_sreg(struct soft_cpu *c, enum soft_sreg seg, uint16_t sel)
{
    struct soft_segment *s = &c->seg[seg];
    uint64_t d;
    if (!sys_protected(c)) {
        if ((c->eflags & SOFT_EFL_VM) || s->unusable) {
            *s = sys_real(sel, c->eflags & SOFT_EFL_VM);
        } else { /* limit and attributes stay (unreal mode) */
            s->sel = sel;
            s->base = (uint64_t)sel << 4;
        }
        return true;
    }
    if (seg == SOFT_SS)
        return load_ss(c, sel);
    if (!(sel & 0xfffc)) {
        *s = sys_null(sel, 0);
        return true;
    }
    if (!sys_desc(c, sel, SOFT_GP, 0, &d))
        return false;
    unsigned type = D_TYPE(d), dpl = D_DPL(d);
    bool code = type & 8, guarded = !code || !(type & 4);
    if (!D_S(d) || (code && !(type & 2)) || (guarded && ((sel & 3u) > dpl || c->cpl > dpl)))
        return sys_fail(c, SOFT_GP, sys_sel(sel, 0));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, 0));
    if (!sys_accessed(c, sel, &d))
        return false;
    *s = sys_unpack(d, sel);
    return true;
}

bool soft_load_sreg(struct soft_cpu *c, enum soft_sreg seg, uint16_t sel)
{
    bool ok = load_sreg(c, seg, sel);
    soft_bases_changed(c);
    return ok;
}

void sys_set_cs(struct soft_cpu *c, uint64_t d, uint16_t sel, unsigned cpl)
{
    c->seg[SOFT_CS] = sys_unpack(d, (uint16_t)((sel & 0xfffcu) | cpl));
    c->cpl = (uint8_t)cpl;
}

bool sys_check_cs(struct soft_cpu *c, uint16_t sel, uint64_t d, bool is_call, uint32_t ext)
{
    (void)is_call;
    unsigned rpl = sel & 3u, dpl = D_DPL(d);
    bool ok = D_CODE(d) && (D_CONFORMING(d) ? dpl <= c->cpl : rpl <= c->cpl && dpl == c->cpl);
    if (sys_long(c) && D_L(d) && D_DB(d))
        ok = false;
    if (!ok)
        return sys_fail(c, SOFT_GP, sys_sel(sel, ext));
    if (!D_PRESENT(d))
        return sys_fail(c, SOFT_NP, sys_sel(sel, ext));
    return true;
}

void sys_drop_inner(struct soft_cpu *c)
{
    static const uint8_t data[] = {SOFT_ES, SOFT_DS, SOFT_FS, SOFT_GS};
    for (unsigned i = 0; i < sizeof data; i++) {
        struct soft_segment *s = &c->seg[data[i]];
        bool guarded = (s->type & 0xc) != 0xc;
        if (!s->unusable && s->dpl < c->cpl && guarded) {
            uint64_t base = sys_long(c) ? s->base : 0;
            *s = sys_null(0, 0);
            s->base = data[i] >= SOFT_FS ? base : 0;
        }
    }
    soft_bases_changed(c);
}

bool sys_load_ldt(struct soft_cpu *c, uint16_t sel, unsigned vector, uint32_t ext)
{
    uint64_t d, high = 0;
    if (!(sel & 0xfffc)) {
        c->seg[SOFT_LDTR] = sys_null(sel, 0);
        return true;
    }
    if (sel & 4)
        return sys_fail(c, vector, sys_sel(sel, ext));
    if (!sys_desc(c, sel, vector, ext, &d) || (sys_long(c) && !sys_desc_high(c, sel, vector, ext, &high)))
        return false;
    if (D_S(d) || D_TYPE(d) != SYS_LDT || (high >> 40 & 31))
        return sys_fail(c, vector, sys_sel(sel, ext));
    if (!D_PRESENT(d))
        return sys_fail(c, vector == SOFT_TS ? SOFT_TS : SOFT_NP, sys_sel(sel, ext));
    struct soft_segment s = sys_unpack(d, sel);
    s.base |= (high & 0xffffffff) << 32;
    if (!soft_canonical(s.base))
        return sys_fail(c, SOFT_GP, sys_sel(sel, ext));
    c->seg[SOFT_LDTR] = s;
    return true;
}
