// SPDX-License-Identifier: Apache-2.0
/* The source of dirty pages for hv/mem/logdirty.c: a bit a page of the memfd, set by vCPUs before they get a
 * write way for it, or after they have written past the ways. */
#include <stdlib.h>
#include <sys/mman.h>

#include "hv/base/bitmap.h"
#include "hv/cpu/soft/vm.h"

struct soft_dirty *soft_dirty_new(uint64_t pages)
{
    struct soft_dirty *d = calloc(1, sizeof *d);
    if (!d)
        return NULL;
    d->bits = mmap(NULL, FY_BITMAP_WORDS(pages) * 8, PROT_READ | PROT_WRITE,
                   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (d->bits != MAP_FAILED)
        return d;
    free(d);
    return NULL;
}

void soft_dirty_free(struct soft_dirty *d, uint64_t pages)
{
    if (!d)
        return;
    munmap(d->bits, FY_BITMAP_WORDS(pages) * 8);
    free(d);
}

void soft_dirty_set(struct soft_vm *vm, struct soft_cpu *c, uint64_t page)
{
    uint64_t bit = 1ull << (page % 64);
    uint64_t old = __atomic_fetch_or(&vm->dirty->bits[page / 64], bit, __ATOMIC_SEQ_CST);
    if (c && !(old & bit))
        __atomic_fetch_add(&c->stat_dirty, 1, __ATOMIC_RELAXED);
}

static int enable(void *arg, bool *initially_set, struct fy_err *e)
{
    struct soft_vm *vm = SOFT_VM(arg);
    (void)e;
    for (uint64_t w = 0; w < FY_BITMAP_WORDS(vm->pages); w++)
        if (__atomic_load_n(&vm->dirty->bits[w], __ATOMIC_RELAXED))
            __atomic_store_n(&vm->dirty->bits[w], 0, __ATOMIC_SEQ_CST);
    __atomic_store_n(&vm->dirty->on, true, __ATOMIC_SEQ_CST);
    /* Ways made before this are for pages that nobody has marked. */
    soft_handshake(vm, NULL, ~0ull, SOFT_REQ_FLUSH_WRITE);
    *initially_set = false;
    return 0;
}

static void disable(void *arg)
{
    struct soft_vm *vm = SOFT_VM(arg);
    __atomic_store_n(&vm->dirty->on, false, __ATOMIC_SEQ_CST);
}

static int fetch(void *arg, unsigned slot, uint64_t *mask, bool *cleared, struct fy_err *e)
{
    struct soft_vm *vm = SOFT_VM(arg);
    const struct fy_slot *s = &vm->gmem->slots[slot];
    const uint64_t *bits = &vm->dirty->bits[s->offset / 4096 / 64];
    (void)e;
    for (uint64_t w = 0; w < s->bytes / 4096 / 64; w++)
        mask[w] |= __atomic_load_n(&bits[w], __ATOMIC_SEQ_CST);
    *cleared = false;
    return 0;
}

static int clear(void *arg, unsigned slot, uint64_t first, uint64_t count, const uint64_t *mask,
                 struct fy_err *e)
{
    struct soft_vm *vm = SOFT_VM(arg);
    uint64_t at = vm->gmem->slots[slot].offset / 4096 + first, writers = 0;
    (void)e;
    for (uint64_t w = 0; w < count / 64; w++)
        if (mask[w])
            __atomic_fetch_and(&vm->dirty->bits[at / 64 + w], ~mask[w], __ATOMIC_SEQ_CST);
    /* Bits first, then who may still write without setting them again. */
    for (uint64_t w = 0; w < count / 64; w++)
        for (uint64_t m = mask[w]; m; m &= m - 1)
            writers |=
                __atomic_load_n(&vm->writers[at + w * 64 + (unsigned)__builtin_ctzll(m)], __ATOMIC_SEQ_CST);
    if (writers)
        soft_handshake(vm, NULL, writers, SOFT_REQ_FLUSH_WRITE);
    return 0;
}

const struct fy_dirty_ops soft_dirty_ops = {enable, disable, fetch, clear};
