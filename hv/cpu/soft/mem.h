// SPDX-License-Identifier: Apache-2.0
/* A software vCPU's view of memory: linear addresses through the TLB, physical ones to RAM and devices.
 * Inline where an instruction's fast path goes through it. All on the vCPU's thread unless said otherwise.
 *
 * "false" or NULL from an access means: an exception (or a crash) is recorded in cpu->exc, nothing was
 * written, and the handler must end with soft_fault(cpu, in). */
#ifndef FERRY_SOFT_MEM_H
#define FERRY_SOFT_MEM_H

#include <string.h>

#include "hv/cpu/soft/cpu.h"

enum soft_access { SOFT_READ = 0, SOFT_WRITE = 1, SOFT_FETCH = 2 };

#if defined(__clang__) || defined(__GNUC__)
/* Guest memory is shared with other vCPUs by design: races there are the guest's. */
#define SOFT_RACY __attribute__((no_sanitize("thread", "undefined", "address")))
#define SOFT_LIKELY(x) __builtin_expect(!!(x), 1)
#define SOFT_UNLIKELY(x) __builtin_expect(!!(x), 0)
#endif

/* Copy n bytes between guest memory and the host's, unseen by the sanitizers. Powers of two in one access. */
SOFT_RACY static inline void soft_copy(void *to, const void *from, unsigned n)
{
    volatile uint8_t *d;
    const volatile uint8_t *s;
    /* The compiler cannot know that `n` fits the object, and would warn of the cases that never come. */
    __asm__("" : "+r"(to), "+r"(from));
    d = to;
    s = from;
    switch (n) {
    case 1:
        __builtin_memcpy(to, from, 1);
        return;
    case 2:
        __builtin_memcpy(to, from, 2);
        return;
    case 4:
        __builtin_memcpy(to, from, 4);
        return;
    case 8:
        __builtin_memcpy(to, from, 8);
        return;
    case 16:
        __builtin_memcpy(to, from, 16);
        return;
    case 32:
        __builtin_memcpy(to, from, 32);
        return;
    default:
        while (n--)
            *d++ = *s++;
    }
}

/* Slow paths: any size 1..64, any alignment, page crossing, MMIO (split into naturally aligned pieces of at
 * most 8), log-dirty, code invalidation. On a fault of the second page nothing of the first is written. */
bool soft_ld_slow(struct soft_cpu *c, uint64_t lin, unsigned size, void *out);
bool soft_st_slow(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in);

static inline void *soft_tlb_hit(const struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how)
{
    const struct soft_tlb_entry *t = &c->tlb[(lin >> 12) & (SOFT_TLB_SIZE - 1)];
    uint64_t tag = how == SOFT_WRITE ? t->write : t->read;
    if (SOFT_LIKELY(tag == ((lin & ~0xfffull) | 1) && (lin & 0xfff) <= 0x1000 - size))
        return (void *)((uintptr_t)lin + t->addend);
    return NULL;
}

#define SOFT_DEFINE_ACCESS(bits)                                                                             \
    SOFT_RACY static inline bool soft_ld##bits(struct soft_cpu *c, uint64_t lin, uint##bits##_t *out)        \
    {                                                                                                        \
        const void *p = soft_tlb_hit(c, lin, (bits) / 8, SOFT_READ);                                         \
        if (SOFT_LIKELY(p != NULL)) {                                                                        \
            __builtin_memcpy(out, p, (bits) / 8);                                                            \
            return true;                                                                                     \
        }                                                                                                    \
        return soft_ld_slow(c, lin, (bits) / 8, out);                                                        \
    }                                                                                                        \
    SOFT_RACY static inline bool soft_st##bits(struct soft_cpu *c, uint64_t lin, uint##bits##_t v)           \
    {                                                                                                        \
        void *p = soft_tlb_hit(c, lin, (bits) / 8, SOFT_WRITE);                                              \
        if (SOFT_LIKELY(p != NULL)) {                                                                        \
            __builtin_memcpy(p, &v, (bits) / 8);                                                             \
            return true;                                                                                     \
        }                                                                                                    \
        return soft_st_slow(c, lin, (bits) / 8, &v);                                                         \
    }
SOFT_DEFINE_ACCESS(8)
SOFT_DEFINE_ACCESS(16)
SOFT_DEFINE_ACCESS(32)
SOFT_DEFINE_ACCESS(64)

/* Any size, by fast path where it hits. */
SOFT_RACY static inline bool soft_ld(struct soft_cpu *c, uint64_t lin, unsigned size, void *out)
{
    const void *p = soft_tlb_hit(c, lin, size, SOFT_READ);
    if (SOFT_UNLIKELY(!p))
        return soft_ld_slow(c, lin, size, out);
    soft_copy(out, p, size);
    return true;
}
SOFT_RACY static inline bool soft_st(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in)
{
    void *p = soft_tlb_hit(c, lin, size, SOFT_WRITE);
    if (SOFT_UNLIKELY(!p))
        return soft_st_slow(c, lin, size, in);
    soft_copy(p, in, size);
    return true;
}

/* Read-modify-write: a pointer to `size` bytes that hold the operand, which may be changed in place; then
 * soft_rmw_end(c, p) makes the change visible (and never fails: write permission was checked). Host memory
 * itself on the fast path. NULL: fault. Not atomic against other vCPUs: see soft_lock_begin. */
void *soft_rmw_slow(struct soft_cpu *c, uint64_t lin, unsigned size);
void soft_rmw_commit(struct soft_cpu *c);
static inline void *soft_rmw_begin(struct soft_cpu *c, uint64_t lin, unsigned size)
{
    void *p = soft_tlb_hit(c, lin, size, SOFT_WRITE);
    if (SOFT_LIKELY(p && soft_tlb_hit(c, lin, size, SOFT_READ)))
        return p;
    return soft_rmw_slow(c, lin, size);
}
static inline void soft_rmw_end(struct soft_cpu *c, void *p)
{
    if (SOFT_UNLIKELY(p == c->rmw.buf))
        soft_rmw_commit(c);
}

/* For LOCK: like soft_rmw_begin, but where the bytes are RAM inside one page and naturally aligned the
 * pointer is host memory even if the page holds code or is not logged yet (*direct true: use the host's
 * atomic instructions on it), else all other vCPUs stand still until soft_lock_end and the pointer is a
 * buffer. */
void *soft_lock_begin(struct soft_cpu *c, uint64_t lin, unsigned size, bool *direct);
void soft_lock_end(struct soft_cpu *c, void *p, bool direct);

/* Check that [lin, lin + size) could be accessed, as ordinary accesses are; false: fault recorded. */
bool soft_probe(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how);

/* A run of bytes for string instructions: a host pointer to linear address lin and, in *room, how many bytes
 * (1..4096) follow in that page, where the TLB (after a fill) allows a direct access; NULL with
 * cpu->exc.pending false where it must go access by access (MMIO, code, ...), NULL with it true on a fault.
 */
void *soft_direct(struct soft_cpu *c, uint64_t lin, enum soft_access how, unsigned *room);

/* System structures (descriptor tables, TSS, interrupt stacks): with supervisor rights whatever the CPL
 * (implicit supervisor access, SDM 3A 4.6.1). */
bool soft_ld_sys(struct soft_cpu *c, uint64_t lin, unsigned size, void *out);
bool soft_st_sys(struct soft_cpu *c, uint64_t lin, unsigned size, const void *in);

/* Physical memory: RAM, the interrupt chips, the bus. Unclaimed reads are all ones. MMIO sizes 1, 2, 4, 8. */
void soft_phys_read(struct soft_cpu *c, uint64_t gpa, unsigned size, void *out);
void soft_phys_write(struct soft_cpu *c, uint64_t gpa, unsigned size, const void *in);
/* Ports, sizes 1, 2, 4, no permission checks. No pointer from soft_direct or soft_rmw_begin is good any more
 * after these, nor after an access that may have met a device. */
uint32_t soft_port_read(struct soft_cpu *c, uint16_t port, unsigned size);
void soft_port_write(struct soft_cpu *c, uint16_t port, unsigned size, uint32_t value);

/* mmu.c: where a linear address leads, under the rules of `mmu`; sets accessed and dirty bits. false: #PF
 * recorded. The address is canonical. */
struct soft_xlate {
    uint64_t gpa;           /* of the byte */
    uint8_t page_bits;      /* size of the page: 12, 21, 22, 30; 12 without paging */
    bool read, write, exec; /* what the rules allow; write only where the dirty bit is set */
};
bool soft_walk(struct soft_cpu *c, uint64_t lin, enum soft_access how, enum soft_mmu mmu,
               struct soft_xlate *out);
/* Load the four PDPTRs from CR3 (PAE outside long mode); false: reserved bits, #GP(0) recorded, none changed.
 */
bool soft_load_pdptrs(struct soft_cpu *c, uint64_t cr3);
static inline bool soft_canonical(uint64_t lin)
{
    return (uint64_t)((int64_t)(lin << 16) >> 16) == lin;
}

/* access.c: one page's part of an access: translation, TLB fill, canonical form. false: fault recorded. */
bool soft_resolve(struct soft_cpu *c, uint64_t lin, unsigned len, enum soft_access how, enum soft_mmu mmu,
                  struct soft_span *out);
/* access.c: an ordinary access in parts (1 or 2; 0: fault recorded), all checks made; then the bytes. */
unsigned soft_spans(struct soft_cpu *c, uint64_t lin, unsigned size, enum soft_access how,
                    struct soft_span s[2]);
void soft_spans_read(struct soft_cpu *c, const struct soft_span *s, unsigned n, void *out);
void soft_spans_write(struct soft_cpu *c, const struct soft_span *s, unsigned n, const void *in);
/* tlb.c: drop the write ways (of all pages; of one page of the memfd). */
void soft_tlb_flush_write(struct soft_cpu *c);
void soft_tlb_drop_page(struct soft_cpu *c, uint64_t page);
/* tlb.c: remember a translation. host: of lin's byte. */
void soft_tlb_fill(struct soft_cpu *c, uint64_t lin, const struct soft_xlate *x, enum soft_access how,
                   enum soft_mmu mmu, uint8_t *host);
/* Make the SOFT_TLB_SLOW way of lin a full one, if log-dirty and decoded code let it. */
bool soft_tlb_upgrade(struct soft_cpu *c, uint64_t lin, enum soft_mmu mmu);

/* Drop all translations of this vCPU (MOV CR3, mode changes), or those of one linear page. */
void soft_tlb_flush(struct soft_cpu *c);
void soft_tlb_flush_page(struct soft_cpu *c, uint64_t lin);

/* After CPL, CS, SS, CR0, CR4, EFER, EFLAGS.AC/VM/TF or DR7 changed: recompute cpl-derived mmu, mode, stack32
 * and the key under which blocks are found. Cheap. The handler must end its block (soft_done). */
void soft_mode_changed(struct soft_cpu *c);

/* Linear address of the instruction's memory operand for `size` bytes, segment applied. Fast: no segment,
 * 64-bit. false: #GP or #SS recorded. */
bool soft_ea_slow(struct soft_cpu *c, const struct soft_insn *in, unsigned size, enum soft_access how,
                  uint64_t *lin);
static inline uint64_t soft_ea_offset(const struct soft_cpu *c, const struct soft_insn *in)
{
    return c->gpr[in->base] + (c->gpr[in->index] << in->scale) + (uint64_t)in->disp;
}
static inline bool soft_ea(struct soft_cpu *c, const struct soft_insn *in, unsigned size,
                           enum soft_access how, uint64_t *lin)
{
    if (SOFT_LIKELY(!in->ea)) {
        *lin = soft_ea_offset(c, in);
        return true;
    }
    if (in->ea == SOFT_EA_SEG) {
        *lin = soft_ea_offset(c, in) + c->seg[in->seg].base;
        return true;
    }
    return soft_ea_slow(c, in, size, how, lin);
}
/* Linear address of seg:offset (offset already wrapped to the address size), for string instructions, stacks,
 * far loads; checks the segment outside 64-bit mode, canonical form is checked by the access. */
bool soft_linear(struct soft_cpu *c, enum soft_sreg seg, uint64_t offset, unsigned size, enum soft_access how,
                 uint64_t *lin);

#endif
