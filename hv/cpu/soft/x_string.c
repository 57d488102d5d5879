// SPDX-License-Identifier: Apache-2.0
/* MOVS CMPS STOS LODS SCAS. With REP they go by runs inside a page where memory allows it, else element by
 * element; registers are up to date after each run, so a fault or an interrupt finds them as after so many
 * iterations. CMPS and SCAS set flags only when they end: a fault leaves those from before (SDM 2B, REP). */
#include "hv/cpu/soft/x_int.h"

enum x_string { X_MOVS, X_CMPS, X_STOS, X_LODS, X_SCAS };

/* Elements at once before requests are looked at. */
#define X_STRING_MAX 16384u

struct x_rep {
    uint64_t n;
    enum { X_DONE, X_FAULT, X_AGAIN } end;
};

X_INLINE uint64_t x_amask(const struct soft_insn *in)
{
    return in->asize == 8 ? UINT64_MAX : in->asize == 4 ? 0xffffffffu : 0xffffu;
}
static void x_move_reg(struct soft_cpu *c, unsigned reg, uint64_t by, unsigned asize)
{
    uint64_t v = c->gpr[reg] + by;
    c->gpr[reg] = asize == 8 ? v : asize == 4 ? (uint32_t)v : (c->gpr[reg] & ~0xffffull) | (uint16_t)v;
}
X_INLINE bool x_has_source(enum x_string op)
{
    return op == X_MOVS || op == X_CMPS || op == X_LODS;
}
X_INLINE bool x_has_dest(enum x_string op)
{
    return op != X_LODS;
}
/* After n elements. */
X_INLINE void x_advance(struct soft_cpu *c, const struct soft_insn *in, enum x_string op, unsigned size,
                        uint64_t n)
{
    uint64_t by = c->eflags & SOFT_EFL_DF ? 0 - n * size : n * size;
    if (x_has_source(op))
        x_move_reg(c, SOFT_RSI, by, in->asize);
    if (x_has_dest(op))
        x_move_reg(c, SOFT_RDI, by, in->asize);
}

/* One element. Comparisons put their operands in *a and *b. */
static bool x_string_one(struct soft_cpu *c, const struct soft_insn *in, enum x_string op, unsigned size,
                         uint64_t *a, uint64_t *b)
{
    uint64_t si = c->gpr[SOFT_RSI] & x_amask(in), di = c->gpr[SOFT_RDI] & x_amask(in);
    struct x_val v = {x_reg(c, 0, size), true}, at;
    if (op == X_CMPS || op == X_SCAS) { /* CMPS reads its second operand first */
        at = x_linear(c, SOFT_ES, di, size, SOFT_READ);
        at = at.ok ? x_ld(c, at.v, size) : at;
        if (!at.ok)
            return false;
        *b = at.v;
    }
    if (x_has_source(op)) {
        at = x_linear(c, in->seg, si, size, SOFT_READ);
        v = at.ok ? x_ld(c, at.v, size) : at;
        if (!v.ok)
            return false;
    }
    *a = v.v;
    if (op == X_LODS) {
        x_set(c, 0, size, v.v);
    } else if (op == X_MOVS || op == X_STOS) {
        at = x_linear(c, SOFT_ES, di, size, SOFT_WRITE);
        if (!at.ok || !x_st(c, at.v, size, v.v))
            return false;
    }
    x_advance(c, in, op, size, 1);
    return true;
}

/* How many elements from seg:off on, in the direction of DF and up to *n, can be reached directly, and where
 * the first is. NULL: go by elements, which also finds any fault in its right order. */
static void *x_run(struct soft_cpu *c, const struct soft_insn *in, unsigned seg, uint64_t off, unsigned size,
                   enum soft_access how, uint64_t *n)
{
    bool down = c->eflags & SOFT_EFL_DF;
    uint64_t mask = x_amask(in), fit;
    struct x_val at, last;
    unsigned room = 0;
    void *p = NULL;
    fit = down ? off / size + 1 : mask == UINT64_MAX ? UINT64_MAX : (mask + 1 - off) / size;
    *n = *n < fit ? *n : fit;
    if (*n < 2)
        return NULL;
    at = x_linear(c, seg, off, size, how);
    if (at.ok)
        p = soft_direct(c, at.v, how, &room);
    if (!p || room < size) {
        c->exc.pending = false;
        return NULL;
    }
    fit = down ? (at.v & 0xfff) / size + 1 : room / size;
    *n = *n < fit ? *n : fit;
    if (c->mode != SOFT_64) {
        last = x_linear(c, seg, down ? off - (*n - 1) * size : off + (*n - 1) * size, size, how);
        if (!last.ok) {
            c->exc.pending = false;
            return NULL;
        }
    }
    return p;
}

/* Bytes as MOVS copies them: an overlap that a forward copy meets replicates. */
SOFT_RACY static void x_copy(uint8_t *d, const uint8_t *s, uint64_t n, unsigned size, bool down)
{
    int64_t step = down ? -(int64_t)size : (int64_t)size;
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    uint64_t bytes = n * size, ahead = (uint64_t)(uintptr_t)d - (uint64_t)(uintptr_t)s;
    if (!down && ahead >= bytes) {
        memmove(d, s, bytes);
        return;
    }
    if (down && 0 - ahead >= bytes) {
        memmove(d - (bytes - size), s - (bytes - size), bytes);
        return;
    }
#endif
    for (uint64_t i = 0; i < n; i++, d += step, s += step)
        x_put(d, size, x_get(s, size));
}
SOFT_RACY static void x_fill(uint8_t *d, uint64_t v, uint64_t n, unsigned size, bool down)
{
    if (down)
        d -= (n - 1) * size;
#if !defined(__SANITIZE_THREAD__) && !defined(__SANITIZE_ADDRESS__)
    if (size == 1 || v == 0) {
        memset(d, (uint8_t)v, n * size);
        return;
    }
#endif
    for (uint64_t i = 0; i < n; i++, d += size)
        x_put(d, size, v);
}
/* Compare until equality is not `want`; how many were compared. step_a 0: against *a itself. */
X_RACY uint64_t x_compare(const uint8_t *s, uint64_t acc, const uint8_t *d, uint64_t n, unsigned size,
                          bool down, bool want, uint64_t *a, uint64_t *b)
{
    int64_t step = down ? -(int64_t)size : (int64_t)size;
    uint64_t i = 0, x = acc, y = 0;
    while (i < n) {
        if (s)
            x = x_get(s, size);
        y = x_get(d, size);
        i++;
        if ((x == y) != want)
            break;
        s = s ? s + step : s;
        d += step;
    }
    *a = x;
    *b = y;
    return i;
}

/* A run of up to n elements; 0: none. */
static uint64_t x_string_run(struct soft_cpu *c, const struct soft_insn *in, enum x_string op, unsigned size,
                             uint64_t n, uint64_t *a, uint64_t *b)
{
    bool down = c->eflags & SOFT_EFL_DF, want = in->flags & SOFT_I_REP;
    uint64_t si = c->gpr[SOFT_RSI] & x_amask(in), di = c->gpr[SOFT_RDI] & x_amask(in);
    uint64_t acc = x_reg(c, 0, size);
    uint8_t *s = NULL, *d = NULL;
    if (x_has_source(op) && !(s = x_run(c, in, in->seg, si, size, SOFT_READ, &n)))
        return 0;
    if (x_has_dest(op) &&
        !(d = x_run(c, in, SOFT_ES, di, size, op == X_MOVS || op == X_STOS ? SOFT_WRITE : SOFT_READ, &n)))
        return 0;
    switch (op) {
    case X_MOVS:
        x_copy(d, s, n, size, down);
        break;
    case X_STOS:
        x_fill(d, acc, n, size, down);
        break;
    case X_LODS:
        x_set(c, 0, size, x_get(down ? s - (n - 1) * size : s + (n - 1) * size, size));
        break;
    default:
        n = size == 1 ? x_compare(s, acc, d, n, 1, down, want, a, b)
                      : x_compare(s, acc, d, n, size, down, want, a, b);
        break;
    }
    x_advance(c, in, op, size, n);
    return n;
}

static __attribute__((noinline)) struct x_rep x_string(struct soft_cpu *c, const struct soft_insn *in,
                                                       enum x_string op, unsigned size)
{
    bool rep = in->flags & (SOFT_I_REP | SOFT_I_REPNE), compares = op == X_CMPS || op == X_SCAS;
    uint64_t a = 0, b = 0, count = rep ? c->gpr[SOFT_RCX] & x_amask(in) : 1, room, most;
    struct x_rep r = {0, X_DONE};
    if (!count)
        return r;
    room = rep ? soft_rep_room(c) : 1;
    most = count < room ? count : room;
    most = most < X_STRING_MAX ? most : X_STRING_MAX;
    while (r.n < most) {
        uint64_t n = most - r.n > 1 ? x_string_run(c, in, op, size, most - r.n, &a, &b) : 0;
        if (!n) {
            if (!x_string_one(c, in, op, size, &a, &b)) {
                r.end = X_FAULT;
                return r;
            }
            n = 1;
        }
        r.n += n;
        if (rep)
            x_move_reg(c, SOFT_RCX, 0 - n, in->asize);
        if (rep && compares && (a == b) != ((in->flags & SOFT_I_REP) != 0)) {
            count = r.n;
            break;
        }
    }
    r.end = r.n < count ? X_AGAIN : X_DONE;
    if (compares && r.end == X_DONE) {
        c->cc.aux = x_sx(a, size);
        c->cc.src = x_sx(b, size);
        c->cc.op = SOFT_CC(SOFT_CC_SUB, size);
    }
    return r;
}

#define STRING(name, OP)                                                                                     \
    SOFT_HANDLER(name)                                                                                       \
    {                                                                                                        \
        struct x_rep r = x_string(c, in, OP, in->size);                                                      \
        if (SOFT_UNLIKELY(r.end == X_AGAIN))                                                                 \
            return soft_again(c, in, r.n);                                                                   \
        if (SOFT_UNLIKELY(r.end == X_FAULT)) {                                                               \
            soft_rep_count(c, r.n + 1);                                                                      \
            return soft_fault(c, in);                                                                        \
        }                                                                                                    \
        soft_rep_count(c, r.n);                                                                              \
        SOFT_NEXT(c, in);                                                                                    \
    }
STRING(movs, X_MOVS)
STRING(cmps, X_CMPS)
STRING(stos, X_STOS)
STRING(lods, X_LODS)
STRING(scas, X_SCAS)
