// SPDX-License-Identifier: Apache-2.0
/* Page walks. Source: Intel SDM volume 3A, chapter 4. */
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/vm.h"

#define P 0x1ull
#define RW 0x2ull
#define US 0x4ull
#define A 0x20ull
#define D 0x40ull
#define PS 0x80ull
#define NX (1ull << 63)
#define ADDR 0x000ffffffffff000ull

#define ERR_P 0x1u
#define ERR_W 0x2u
#define ERR_U 0x4u
#define ERR_RSVD 0x8u
#define ERR_I 0x10u

/* An entry on the way: where it lies, what it held. */
struct step {
    uint8_t *host; /* NULL: not RAM; a table in ROM keeps its accessed bits as they are */
    uint64_t value;
};

struct walk {
    struct step steps[4];
    unsigned count, bytes; /* of an entry: 4 or 8 */
    uint64_t rights;       /* RW, US and NX of all levels: the first two ANDed, NX ORed */
    uint64_t base;         /* of the page */
    unsigned page_bits;
};

enum found { FOUND, ABSENT, RESERVED };

static bool paged64(const struct soft_cpu *c)
{
    return c->efer & SOFT_EFER_LMA;
}

/* Read an entry and take it into account. */
SOFT_RACY static enum found entry(const struct soft_cpu *c, struct walk *w, uint64_t gpa, uint64_t *value)
{
    struct step *s = &w->steps[w->count++];
    s->host = soft_ram(c->vm, gpa);
    const uint8_t *at = s->host ? s->host : soft_rom(c->vm, gpa);
    s->value = w->bytes == 8 ? ~0ull : 0xffffffffu;
    if (at && w->bytes == 8)
        s->value = __atomic_load_n((const uint64_t *)(const void *)at, __ATOMIC_RELAXED);
    else if (at)
        s->value = __atomic_load_n((const uint32_t *)(const void *)at, __ATOMIC_RELAXED);
    *value = s->value;
    if (!(s->value & P))
        return ABSENT;
    w->rights &= s->value | NX;
    if (w->bytes == 8) {
        w->rights |= s->value & NX;
        uint64_t reserved = ADDR & ~(c->vm->phys_limit - 1);
        if (!(c->efer & SOFT_EFER_NXE))
            reserved |= NX;
        if (!paged64(c))
            reserved |= 0x7ff0000000000000ull;
        if (s->value & reserved)
            return RESERVED;
    }
    return FOUND;
}

static enum found leaf(struct walk *w, uint64_t value, unsigned bits)
{
    w->page_bits = bits;
    w->base = value & ADDR & ~((1ull << bits) - 1);
    /* Between the frame and bit 12 (PAT) an entry of a large page has nothing. */
    if (bits > 12 && w->bytes == 8 && (value & ((1ull << bits) - 1) & ~0x1fffull))
        return RESERVED;
    return FOUND;
}

static enum found walk_legacy(const struct soft_cpu *c, uint64_t lin, struct walk *w)
{
    uint64_t e;
    w->bytes = 4;
    enum found r = entry(c, w, (c->cr3 & 0xfffff000u) + (lin >> 22 & 0x3ff) * 4, &e);
    if (r != FOUND)
        return r;
    if ((e & PS) && (c->cr4 & SOFT_CR4_PSE)) {
        w->page_bits = 22;
        w->base = (e & 0xffc00000u) | (e >> 13 & 0xff) << 32;
        return (e & 0x200000u) || w->base >= c->vm->phys_limit ? RESERVED : FOUND;
    }
    r = entry(c, w, (e & 0xfffff000u) + (lin >> 12 & 0x3ff) * 4, &e);
    return r == FOUND ? leaf(w, e, 12) : r;
}

/* From a page directory down. */
static enum found walk_low(const struct soft_cpu *c, uint64_t lin, uint64_t table, struct walk *w)
{
    uint64_t e;
    enum found r = entry(c, w, table + (lin >> 21 & 0x1ff) * 8, &e);
    if (r != FOUND)
        return r;
    if (e & PS)
        return leaf(w, e, 21);
    r = entry(c, w, (e & ADDR) + (lin >> 12 & 0x1ff) * 8, &e);
    return r == FOUND ? leaf(w, e, 12) : r;
}

static enum found walk_long(const struct soft_cpu *c, uint64_t lin, struct walk *w)
{
    uint64_t e;
    enum found r = entry(c, w, (c->cr3 & ADDR) + (lin >> 39 & 0x1ff) * 8, &e);
    if (r == FOUND && (e & PS))
        r = RESERVED;
    if (r != FOUND)
        return r;
    r = entry(c, w, (e & ADDR) + (lin >> 30 & 0x1ff) * 8, &e);
    if (r != FOUND)
        return r;
    if (e & PS)
        return c->vm->has_1g ? leaf(w, e, 30) : RESERVED;
    return walk_low(c, lin, e & ADDR, w);
}

static enum found find(const struct soft_cpu *c, uint64_t lin, struct walk *w)
{
    w->rights = RW | US;
    w->count = 0;
    if (!(c->cr4 & SOFT_CR4_PAE))
        return walk_legacy(c, lin, w);
    w->bytes = 8;
    if (paged64(c))
        return walk_long(c, lin, w);
    uint64_t pdpte = c->pdptr[lin >> 30 & 3];
    return pdpte & P ? walk_low(c, lin, pdpte & ADDR, w) : ABSENT;
}

static void judge(const struct soft_cpu *c, const struct walk *w, enum soft_mmu mmu, struct soft_xlate *x)
{
    bool user = w->rights & US, nx = w->rights & NX;
    if (mmu == SOFT_MMU_USER) {
        x->read = user;
        x->write = user && (w->rights & RW);
        x->exec = user && !nx;
        return;
    }
    x->read = !(user && mmu == SOFT_MMU_KERNEL && (c->cr4 & SOFT_CR4_SMAP));
    x->write = x->read && ((w->rights & RW) || !(c->cr0 & SOFT_CR0_WP));
    x->exec = !nx && !(user && (c->cr4 & SOFT_CR4_SMEP));
}

SOFT_RACY static bool swap(struct soft_cpu *c, const struct walk *w, const struct step *s, uint64_t set)
{
    uint64_t want = s->value | set;
    if (want == s->value || !s->host)
        return true;
    bool ok;
    if (w->bytes == 8) {
        uint64_t old = s->value;
        ok = __atomic_compare_exchange_n((uint64_t *)(void *)s->host, &old, want, false, __ATOMIC_SEQ_CST,
                                         __ATOMIC_RELAXED);
    } else {
        uint32_t old = (uint32_t)s->value;
        ok = __atomic_compare_exchange_n((uint32_t *)(void *)s->host, &old, (uint32_t)want, false,
                                         __ATOMIC_SEQ_CST, __ATOMIC_RELAXED);
    }
    if (ok)
        soft_ram_marked(c, s->host, w->bytes);
    return ok;
}

/* Set A in every entry, D in the leaf. false: an entry has changed, walk again. */
static bool touch(struct soft_cpu *c, const struct walk *w, bool write)
{
    for (unsigned i = 0; i < w->count; i++) {
        bool last = i + 1 == w->count;
        if (!swap(c, w, &w->steps[i], last && write ? A | D : A))
            return false;
    }
    return true;
}

static bool fail(struct soft_cpu *c, uint64_t lin, enum soft_access how, enum soft_mmu mmu, uint32_t err)
{
    if (how == SOFT_WRITE)
        err |= ERR_W;
    if (mmu == SOFT_MMU_USER)
        err |= ERR_U;
    bool nx = (c->efer & SOFT_EFER_NXE) && (c->cr4 & SOFT_CR4_PAE);
    if (how == SOFT_FETCH && (nx || (c->cr4 & SOFT_CR4_SMEP)))
        err |= ERR_I;
    soft_exc_page(c, err, lin);
    return false;
}

bool soft_walk(struct soft_cpu *c, uint64_t lin, enum soft_access how, enum soft_mmu mmu,
               struct soft_xlate *out)
{
    c->stat_walks++;
    if (!(c->cr0 & SOFT_CR0_PG)) {
        *out = (struct soft_xlate){(uint32_t)lin, 12, true, true, true};
        return true;
    }
    for (;;) {
        struct walk w;
        enum found r = find(c, lin, &w);
        if (r != FOUND)
            return fail(c, lin, how, mmu, r == RESERVED ? ERR_P | ERR_RSVD : 0);
        judge(c, &w, mmu, out);
        if (!(how == SOFT_READ ? out->read : how == SOFT_WRITE ? out->write : out->exec))
            return fail(c, lin, how, mmu, ERR_P);
        if (!touch(c, &w, how == SOFT_WRITE))
            continue;
        if (SOFT_UNLIKELY(c->vm->tables != NULL))
            for (unsigned i = 0; i < w.count; i++)
                if (w.steps[i].host)
                    soft_table_used(c, w.steps[i].host);
        if (how != SOFT_WRITE && !(w.steps[w.count - 1].value & D))
            out->write = false;
        out->gpa = w.base | (lin & ((1ull << w.page_bits) - 1));
        out->page_bits = (uint8_t)w.page_bits;
        return true;
    }
}

bool soft_load_pdptrs(struct soft_cpu *c, uint64_t cr3)
{
    uint64_t v[4];
    uint64_t reserved = 0x1e6ull | ~(c->vm->phys_limit - 1);
    for (unsigned i = 0; i < 4; i++) {
        soft_phys_read(c, (cr3 & 0xffffffe0u) + i * 8, 8, &v[i]);
        if ((v[i] & P) && (v[i] & reserved)) {
            soft_exc_error(c, SOFT_GP, 0);
            return false;
        }
    }
    memcpy(c->pdptr, v, sizeof v);
    return true;
}
