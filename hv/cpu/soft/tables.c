// SPDX-License-Identifier: Apache-2.0
/* Which page-table entries the TLB was filled from, so that a write to one of them empties it. With that
 * every translation is what a walk at that instruction would give, accessed and dirty bits included, whatever
 * the TLB holds: a guest that was stopped, saved or moved goes on like one that was not. */
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/mem.h"
#include "hv/cpu/soft/vm.h"

#define WORDS 512u

struct soft_tables {
    uint64_t epoch;
    uint64_t *pages;         /* the epoch in which a page of the memfd was walked through */
    uint64_t entries[WORDS]; /* a filter of used entries: all of them, and some others */
};

struct soft_tables *soft_tables_new(uint64_t pages)
{
    struct soft_tables *t = calloc(1, sizeof *t);
    if (!t)
        return NULL;
    t->epoch = 1;
    t->pages =
        mmap(NULL, pages * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (t->pages != MAP_FAILED)
        return t;
    free(t);
    return NULL;
}

void soft_tables_free(struct soft_tables *t, uint64_t pages)
{
    if (!t)
        return;
    munmap(t->pages, pages * 8);
    free(t);
}

static unsigned hash(uint64_t entry)
{
    return (unsigned)(entry * 0x9e3779b97f4a7c15ull >> 49);
}

void soft_table_used(struct soft_cpu *c, const uint8_t *host)
{
    struct soft_vm *vm = c->vm;
    struct soft_tables *t = vm->tables;
    uint64_t offset = (uint64_t)(host - vm->gmem->host), page = offset / 4096;
    if (t->pages[page] != t->epoch) {
        t->pages[page] = t->epoch;
        if (__atomic_load_n(&vm->writers[page], __ATOMIC_RELAXED))
            soft_tlb_drop_page(c, page);
    }
    unsigned h = hash(offset / 8);
    t->entries[h / 64] |= 1ull << (h % 64);
}

bool soft_is_table(const struct soft_vm *vm, uint64_t page)
{
    return vm->tables->pages[page] == vm->tables->epoch;
}

void soft_table_written(struct soft_cpu *c, const uint8_t *host, unsigned len)
{
    const struct soft_tables *t = c->vm->tables;
    uint64_t offset = (uint64_t)(host - c->vm->gmem->host);
    if (!soft_is_table(c->vm, offset / 4096))
        return;
    for (uint64_t i = offset / 8; i <= (offset + len - 1) / 8; i++) {
        unsigned h = hash(i);
        if (!(t->entries[h / 64] >> (h % 64) & 1))
            continue;
        soft_tlb_forget(c);
        soft_code_leave(c);
        return;
    }
}

void soft_tables_forget(struct soft_vm *vm)
{
    vm->tables->epoch++;
    memset(vm->tables->entries, 0, sizeof vm->tables->entries);
}
