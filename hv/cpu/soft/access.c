// SPDX-License-Identifier: Apache-2.0
/* Accesses that the TLB does not serve at once: misses, page crossings, devices, pages with decoded code. */
#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/chips.h"
#include "hv/cpu/soft/exec.h"
#include "hv/cpu/soft/vm.h"

static bool not_canonical(struct soft_cpu *c, uint64_t lin)
{
    soft_exc_error(c, SOFT_GP, 0);
    c->exc.canonical = true;
    c->exc.cr2 = lin;
    return false;
}

bool soft_resolve(struct soft_cpu *c, uint64_t lin, unsigned len, enum soft_access how, enum soft_mmu mmu,
                  struct soft_span *out)
{
    struct soft_tlb_entry *t = &c->ways[mmu][lin >> 12 & (SOFT_TLB_SIZE - 1)];
    uint64_t page = lin & ~0xfffull;
    uint64_t tag = how == SOFT_WRITE ? t->write : how == SOFT_FETCH ? t->fetch : t->read;
    out->len = len;
    out->gpa = 0;
    out->way = false;
    if (tag == (page | 1)) {
        out->host = (uint8_t *)((uintptr_t)lin + t->addend);
        out->way = how == SOFT_WRITE;
        return true;
    }
    if (how == SOFT_WRITE && tag == (page | SOFT_TLB_SLOW)) {
        out->host = (uint8_t *)((uintptr_t)lin + t->addend);
        out->way = soft_tlb_upgrade(c, lin, mmu);
        return true;
    }
    struct soft_xlate x;
    if ((c->efer & SOFT_EFER_LMA) && !soft_canonical(lin))
        return not_canonical(c, lin);
    if (!soft_walk(c, lin, how, mmu, &x))
        return false;
    out->gpa = x.gpa;
    out->host = soft_ram(c->vm, x.gpa);
    if (SOFT_UNLIKELY(!out->host) && how != SOFT_WRITE) {
        out->host = soft_rom(c->vm, x.gpa);
        x.write = false; /* never a write way: writes go to the bus */
    }
    if (out->host) {
        soft_tlb_fill(c, lin, &x, how, mmu, out->host);
        out->way = how == SOFT_WRITE && t->write == (page | 1);
    }
    return true;
}

void soft_ram_marked(struct soft_cpu *c, const uint8_t *host, unsigned len)
{
    struct soft_vm *vm = c->vm;
    uint64_t offset = (uint64_t)(host - vm->gmem->host), page = offset / 4096;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!soft_dirty_has(vm, page))
        soft_dirty_set(vm, c, page);
    if (!__atomic_load_n(&vm->code_users[page], __ATOMIC_SEQ_CST))
        return;
    unsigned first = offset % 4096 / 64, last = (unsigned)((offset % 4096 + len - 1) / 64);
    uint64_t lines = (~0ull << first) & (~0ull >> (63 - (last & 63)));
    if (__atomic_load_n(&vm->code_lines[page], __ATOMIC_SEQ_CST) & lines)
        soft_code_written(vm, c, page);
}

void soft_ram_written(struct soft_cpu *c, const uint8_t *host, unsigned len)
{
    soft_ram_marked(c, host, len);
    if (SOFT_UNLIKELY(c->vm->tables != NULL))
        soft_table_written(c, host, len);
}

static uint64_t device(struct soft_cpu *c, uint64_t gpa, unsigned size, bool write, uint64_t value)
{
    bool inside = __atomic_load_n(&c->in_guest, __ATOMIC_RELAXED);
    if (inside)
        soft_leave_guest(c);
    if (!soft_chips_mmio(c, gpa, size, write, &value)) {
        if (write)
            fy_bus_write(c->vm->bus, FY_SPACE_MMIO, gpa, size, value);
        else
            value = fy_bus_read(c->vm->bus, FY_SPACE_MMIO, gpa, size);
    }
    if (inside)
        soft_enter_guest(c);
    return value;
}

/* Largest naturally aligned piece of at most 8 bytes at the start of [gpa, gpa + len). */
static unsigned piece(uint64_t gpa, unsigned len)
{
    unsigned n = 8;
    while (n > len || gpa % n)
        n /= 2;
    return n;
}

void soft_phys_read(struct soft_cpu *c, uint64_t gpa, unsigned size, void *out)
{
    uint8_t *to = out;
    while (size) {
        unsigned n = piece(gpa, size);
        const uint8_t *host = soft_ram(c->vm, gpa);
        if (!host)
            host = soft_rom(c->vm, gpa);
        if (host) {
            soft_copy(to, host, n);
        } else {
            uint64_t v = device(c, gpa, n, false, ~0ull);
            memcpy(to, &v, n);
        }
        to += n;
        gpa += n;
        size -= n;
    }
}

void soft_phys_write(struct soft_cpu *c, uint64_t gpa, unsigned size, const void *in)
{
    const uint8_t *from = in;
    while (size) {
        unsigned n = piece(gpa, size);
        uint8_t *host = soft_ram(c->vm, gpa);
        if (host) {
            soft_copy(host, from, n);
            soft_ram_written(c, host, n);
        } else {
            uint64_t v = 0;
            memcpy(&v, from, n);
            device(c, gpa, n, true, v);
        }
        from += n;
        gpa += n;
        size -= n;
    }
}

/* An I/O breakpoint (CR4.DE)? */
static void watch_port(struct soft_cpu *c, uint16_t port, unsigned size)
{
    for (unsigned i = 0; i < 4; i++) {
        unsigned kind = c->dr[7] >> (16 + i * 4) & 3, len = (c->dr[7] >> (18 + i * 4) & 3) + 1;
        if ((c->watch >> i & 1) && kind == 2 && (c->cr4 & SOFT_CR4_DE) && port < c->dr[i] + len &&
            c->dr[i] < (uint64_t)port + size)
            c->dr_hit |= (uint8_t)(1u << i);
    }
}

uint32_t soft_port_read(struct soft_cpu *c, uint16_t port, unsigned size)
{
    uint32_t v = 0xffffffffu >> (32 - size * 8);
    if (c->watch)
        watch_port(c, port, size);
    bool inside = __atomic_load_n(&c->in_guest, __ATOMIC_RELAXED);
    if (inside)
        soft_leave_guest(c);
    if (!soft_chips_port(c, port, size, false, &v))
        v = (uint32_t)fy_bus_read(c->vm->bus, FY_SPACE_PORT, port, size);
    if (inside)
        soft_enter_guest(c);
    return v;
}

void soft_port_write(struct soft_cpu *c, uint16_t port, unsigned size, uint32_t value)
{
    if (c->watch)
        watch_port(c, port, size);
    bool inside = __atomic_load_n(&c->in_guest, __ATOMIC_RELAXED);
    if (inside)
        soft_leave_guest(c);
    if (!soft_chips_port(c, port, size, true, &value))
        fy_bus_write(c->vm->bus, FY_SPACE_PORT, port, size, value);
    if (inside)
        soft_enter_guest(c);
}

static bool read_span(struct soft_cpu *c, const struct soft_span *s, void *to)
{
    if (s->host)
        soft_copy(to, s->host, s->len);
    else
        soft_phys_read(c, s->gpa, s->len, to);
    return true;
}

static void write_span(struct soft_cpu *c, const struct soft_span *s, const void *from)
{
    if (!s->host) {
        soft_phys_write(c, s->gpa, s->len, from);
        return;
    }
    soft_copy(s->host, from, s->len);
    /* The walk for the second page may have found a table in the first. */
    if (!s->way || SOFT_UNLIKELY(c->vm->tables != NULL))
        soft_ram_written(c, s->host, s->len);
}

/* A device's registers may depend on the exact count of instructions: under icount such an instruction runs
 * in a block of its own. */
static bool exact(struct soft_cpu *c, const struct soft_span *s, unsigned n)
{
    if (SOFT_LIKELY(!c->vm->icount) || (c->block->flags & SOFT_B_SINGLE))
        return true;
    for (unsigned i = 0; i < n; i++)
        if (!s[i].host)
            c->retry = true;
    return !c->retry;
}

/* Translate [lin, lin + size), one span or two; 0: fault recorded. */
static unsigned spans(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how,
                      enum soft_mmu mmu, bool wrap, struct soft_span s[2])
{
    unsigned room = 4096 - (lin & 0xfff);
    if (wrap)
        lin = (uint32_t)lin;
    if (SOFT_LIKELY(size <= room))
        return soft_resolve(c, lin, size, how, mmu, &s[0]);
    uint64_t next = lin + room;
    if (wrap)
        next = (uint32_t)next;
    if (!soft_resolve(c, lin, room, how, mmu, &s[0]) || !soft_resolve(c, next, size - room, how, mmu, &s[1]))
        return 0;
    return 2;
}

static void watch_data(struct soft_cpu *c, uint64_t lin, unsigned size, bool write)
{
    static const uint8_t lens[] = {1, 2, 8, 4};
    for (unsigned i = 0; i < 4; i++) {
        unsigned kind = c->dr[7] >> (16 + i * 4) & 3, len = lens[c->dr[7] >> (18 + i * 4) & 3];
        uint64_t at = c->dr[i] & ~(uint64_t)(len - 1);
        if ((c->watch >> i & 1) && (kind == 3 || (kind == 1 && write)) &&
            at - lin + len - 1 < (uint64_t)len + size - 1)
            c->dr_hit |= (uint8_t)(1u << i);
    }
}

unsigned soft_spans(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how,
                    struct soft_span s[2])
{
    if (c->ac_check && size <= 8 && (size & (size - 1)) == 0 && (lin & (size - 1))) {
        soft_exc_error(c, SOFT_AC, 0);
        return 0;
    }
    unsigned n = spans(c, lin, size, how, c->mmu, c->mode != SOFT_64, s);
    if (!n || !exact(c, s, n))
        return 0;
    if (c->watch)
        watch_data(c, lin, size, how == SOFT_WRITE);
    return n;
}

void soft_spans_read(struct soft_cpu *c, const struct soft_span *s, unsigned n, void *out)
{
    read_span(c, &s[0], out);
    if (n > 1)
        read_span(c, &s[1], (uint8_t *)out + s[0].len);
}

void soft_spans_write(struct soft_cpu *c, const struct soft_span *s, unsigned n, const void *in)
{
    write_span(c, &s[0], in);
    if (n > 1)
        write_span(c, &s[1], (const uint8_t *)in + s[0].len);
}

bool soft_ld_slow(struct soft_cpu *c, uint64_t lin, unsigned size, void *out)
{
    struct soft_span s[2];
    unsigned n = soft_spans(c, lin, size, SOFT_READ, s);
    if (n)
        soft_spans_read(c, s, n, out);
    return n;
}

bool soft_st_slow(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in)
{
    struct soft_span s[2];
    unsigned n = soft_spans(c, lin, size, SOFT_WRITE, s);
    if (n)
        soft_spans_write(c, s, n, in);
    return n;
}

bool soft_ld_sys(struct soft_cpu *c, uint64_t lin, unsigned size, void *out)
{
    struct soft_span s[2];
    unsigned n = spans(c, lin, size, SOFT_READ, SOFT_MMU_KERNEL, !(c->efer & SOFT_EFER_LMA), s);
    if (n)
        soft_spans_read(c, s, n, out);
    return n;
}

bool soft_st_sys(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in)
{
    struct soft_span s[2];
    unsigned n = spans(c, lin, size, SOFT_WRITE, SOFT_MMU_KERNEL, !(c->efer & SOFT_EFER_LMA), s);
    if (n)
        soft_spans_write(c, s, n, in);
    return n;
}

bool soft_probe(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how)
{
    struct soft_span s[2];
    return spans(c, lin, size, how, c->mmu, c->mode != SOFT_64, s);
}

void *soft_direct(struct soft_cpu *c, uint64_t lin, enum soft_access how, unsigned *room)
{
    struct soft_span s;
    if (c->ac_check || c->watch)
        return NULL;
    if (c->mode != SOFT_64)
        lin = (uint32_t)lin;
    if (!soft_resolve(c, lin, 1, how, c->mmu, &s) || !s.host || (how == SOFT_WRITE && !s.way))
        return NULL;
    *room = 4096 - (lin & 0xfff);
    return s.host;
}
