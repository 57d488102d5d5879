// SPDX-License-Identifier: Apache-2.0
/* Read-modify-write operands that are not simply host memory, and LOCK. */
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/vm.h"

void *soft_rmw_slow(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    if (size > sizeof c->rmw.buf)
        return NULL;
    unsigned n = soft_spans(c, lin, size, SOFT_WRITE, c->rmw.span);
    if (!n)
        return NULL;
    c->rmw.span[1].len = n > 1 ? c->rmw.span[1].len : 0;
    c->rmw.size = size;
    c->rmw.stopped = false;
    soft_spans_read(c, c->rmw.span, n, c->rmw.buf);
    return c->rmw.buf;
}

void soft_rmw_commit(struct soft_cpu *c)
{
    soft_spans_write(c, c->rmw.span, c->rmw.span[1].len ? 2 : 1, c->rmw.buf);
}

static bool all_ram(const struct soft_span *s, unsigned n)
{
    return s[0].host && (n == 1 || s[1].host);
}

/* The operand is RAM, but not where the host's atomic instructions could reach it at once. */
static void *split_begin(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    soft_stop_others(c);
    void *p = NULL;
    /* Again: standing in line for the stop may have taken ways away, and page tables may have changed. */
    unsigned n = soft_spans(c, lin, size, SOFT_WRITE, c->rmw.span);
    if (n && all_ram(c->rmw.span, n))
        p = soft_rmw_slow(c, lin, size);
    if (!p) {
        soft_start_others(c);
        return n ? soft_rmw_slow(c, lin, size) : NULL;
    }
    c->rmw.stopped = true;
    return p;
}

void *soft_lock_begin(struct soft_cpu *c, uint64_t lin, unsigned size, bool *direct)
{
    *direct = false;
    bool aligned = (size & (size - 1)) == 0 && (lin & (size - 1)) == 0;
    void *p = aligned ? soft_tlb_hit(c, lin, size, SOFT_WRITE) : NULL;
    c->rmw.mark = false;
    if (SOFT_LIKELY(p != NULL)) {
        *direct = true;
        return p;
    }
    unsigned n = soft_spans(c, lin, size, SOFT_WRITE, c->rmw.span);
    if (!n)
        return NULL;
    if (!all_ram(c->rmw.span, n))
        return soft_rmw_slow(c, lin, size);
    if (!aligned)
        return split_begin(c, lin, size);
    c->rmw.mark = !c->rmw.span[0].way;
    c->rmw.size = size;
    *direct = true;
    return c->rmw.span[0].host;
}

void soft_lock_end(struct soft_cpu *c, void *p, bool direct)
{
    if (direct) {
        if (SOFT_UNLIKELY(c->rmw.mark))
            soft_ram_written(c, p, c->rmw.size);
        return;
    }
    soft_rmw_commit(c);
    if (c->rmw.stopped) {
        c->rmw.stopped = false;
        soft_start_others(c);
    }
}
