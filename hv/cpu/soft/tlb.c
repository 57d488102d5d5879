// SPDX-License-Identifier: Apache-2.0
#include "hv/cpu/soft/block.h"
#include "hv/cpu/soft/mem.h"
#include "hv/cpu/soft/vm.h"

/* Always misses: in force while every access has to go the slow way (#AC, data breakpoints). */
static struct soft_tlb_entry nothing[SOFT_TLB_SIZE];

#define KEY_STACK32 0x4ull /* beside the mode */
#define KEY_USER 0x8ull
#define KEY_EPOCH 0x10ull

static void forget_writers(struct soft_cpu *c)
{
    uint64_t bit = 1ull << c->index;
    for (unsigned i = 0; i < c->writer_count; i++)
        __atomic_fetch_and(&c->vm->writers[c->writer_pages[i]], ~bit, __ATOMIC_SEQ_CST);
    c->writer_count = 0;
}

static void clear_ways(struct soft_cpu *c)
{
    struct soft_tlb_entry *all = &c->ways[0][0];
    if (c->fills > SOFT_TLB_LISTED)
        memset(c->ways, 0, sizeof c->ways);
    else
        for (unsigned i = 0; i < c->fills; i++)
            all[c->filled[i]] = (struct soft_tlb_entry){0};
    c->fills = 0;
}

/* The pages stay listed as written by this vCPU: an instruction that is under way may yet write. */
void soft_tlb_forget(struct soft_cpu *c)
{
    clear_ways(c);
    c->jump_key += KEY_EPOCH;
    c->large_2m = c->large_1g = 0;
    c->stat_flushes++;
    if (c->vm->tables)
        soft_tables_forget(c->vm);
}

void soft_tlb_flush(struct soft_cpu *c)
{
    soft_tlb_forget(c);
    forget_writers(c);
}

void soft_tlb_flush_write(struct soft_cpu *c)
{
    if (!c->writer_count)
        return;
    for (unsigned m = 0; m < SOFT_MMUS; m++)
        for (unsigned i = 0; i < SOFT_TLB_SIZE; i++)
            if (c->ways[m][i].write & 1)
                c->ways[m][i].write ^= 3;
    forget_writers(c);
}

static uint64_t bloom(uint64_t number)
{
    return 1ull << (number * 0x9e3779b97f4a7c15ull >> 58);
}

void soft_tlb_flush_page(struct soft_cpu *c, uint64_t lin)
{
    if ((c->large_2m & bloom(lin >> 21)) || (c->large_1g & bloom(lin >> 30))) {
        soft_tlb_flush(c);
        return;
    }
    for (unsigned m = 0; m < SOFT_MMUS; m++) {
        struct soft_tlb_entry *t = &c->ways[m][lin >> 12 & (SOFT_TLB_SIZE - 1)];
        uint64_t tag = (lin & ~0xfffull) | 1;
        if (t->read == tag || (t->write & ~3ull) == (lin & ~0xfffull) || t->fetch == tag)
            memset(t, 0, sizeof *t);
    }
    c->jump_key += KEY_EPOCH;
}

void soft_tlb_drop_page(struct soft_cpu *c, uint64_t page)
{
    uintptr_t host = (uintptr_t)c->vm->gmem->host + page * 4096;
    for (unsigned m = 0; m < SOFT_MMUS; m++)
        for (unsigned i = 0; i < SOFT_TLB_SIZE; i++) {
            struct soft_tlb_entry *t = &c->ways[m][i];
            if ((t->write & 1) && (t->write & ~3ull) + t->addend == host)
                t->write ^= 3;
        }
}

/* May this vCPU store to the page without telling anybody? Announces the way before it looks. */
static bool announce(struct soft_cpu *c, uint64_t page, bool dirtying)
{
    struct soft_vm *vm = c->vm;
    uint64_t bit = 1ull << c->index;
    if (__atomic_load_n(&vm->code_users[page], __ATOMIC_RELAXED) || (!dirtying && !soft_dirty_has(vm, page)))
        return false;
    if (vm->tables && soft_is_table(vm, page))
        return false;
    if (!(__atomic_load_n(&vm->writers[page], __ATOMIC_SEQ_CST) & bit)) {
        if (c->writer_count == SOFT_WRITERS_MAX) {
            /* Not here and now: the instruction may hold a pointer that another way gave it. */
            __atomic_fetch_or(&c->requests, SOFT_REQ_FLUSH_WRITE, __ATOMIC_SEQ_CST);
            __atomic_store_n(&c->limit, 0, __ATOMIC_SEQ_CST);
            return false;
        }
        __atomic_fetch_or(&vm->writers[page], bit, __ATOMIC_SEQ_CST);
        c->writer_pages[c->writer_count++] = page;
    }
    if (__atomic_load_n(&vm->code_users[page], __ATOMIC_SEQ_CST))
        return false;
    if (!soft_dirty_has(vm, page)) {
        if (!dirtying)
            return false;
        soft_dirty_set(vm, c, page);
    }
    return true;
}

bool soft_tlb_upgrade(struct soft_cpu *c, uint64_t lin, enum soft_mmu mmu)
{
    struct soft_tlb_entry *t = &c->ways[mmu][lin >> 12 & (SOFT_TLB_SIZE - 1)];
    uint64_t page = (uint64_t)((lin + t->addend) - (uintptr_t)c->vm->gmem->host) / 4096;
    if (!announce(c, page, true))
        return false;
    t->write = (lin & ~0xfffull) | 1;
    return true;
}

void soft_tlb_fill(struct soft_cpu *c, uint64_t lin, const struct soft_xlate *x, enum soft_access how,
                   enum soft_mmu mmu, uint8_t *host)
{
    struct soft_tlb_entry *t = &c->ways[mmu][lin >> 12 & (SOFT_TLB_SIZE - 1)];
    uint64_t tag = (lin & ~0xfffull) | 1;
    uint64_t page = (uint64_t)(host - c->vm->gmem->host) / 4096;
    if (!(t->read | t->write | t->fetch)) {
        if (c->fills < SOFT_TLB_LISTED)
            c->filled[c->fills] = (uint16_t)(t - &c->ways[0][0]);
        c->fills += c->fills <= SOFT_TLB_LISTED;
    }
    memset(t, 0, sizeof *t);
    bool way = x->write && announce(c, page, how == SOFT_WRITE);
    t->addend = (uintptr_t)host - (uintptr_t)lin;
    t->read = x->read ? tag : 0;
    t->fetch = x->exec ? tag : 0;
    t->write = way ? tag : x->write ? tag ^ 3 : 0;
    if (x->page_bits > 22)
        c->large_1g |= bloom(lin >> 30);
    else if (x->page_bits == 22)
        c->large_2m |= bloom(lin >> 22 << 1) | bloom(lin >> 22 << 1 | 1);
    else if (x->page_bits == 21)
        c->large_2m |= bloom(lin >> 21);
}

static void watch_changed(struct soft_cpu *c)
{
    c->watch = c->breaks = 0;
    for (unsigned i = 0; i < 4; i++) {
        if (!(c->dr[7] >> (i * 2) & 3))
            continue;
        unsigned kind = c->dr[7] >> (16 + i * 4) & 3;
        if (kind == 0)
            c->breaks |= (uint8_t)(1u << i);
        else
            c->watch |= (uint8_t)(1u << i);
    }
}

void soft_mode_changed(struct soft_cpu *c)
{
    const struct soft_segment *cs = &c->seg[SOFT_CS];
    bool protected = (c->cr0 & SOFT_CR0_PE) && !(c->eflags & SOFT_EFL_VM);
    if ((c->efer & SOFT_EFER_LMA) && cs->l && protected)
        c->mode = SOFT_64;
    else
        c->mode = cs->db ? SOFT_32 : SOFT_16;
    c->stack32 = c->mode != SOFT_64 && c->seg[SOFT_SS].db;
    watch_changed(c);
    bool user = c->cpl == 3;
    if (user)
        c->mmu = SOFT_MMU_USER;
    else if ((c->cr4 & SOFT_CR4_SMAP) && !(c->eflags & SOFT_EFL_AC))
        c->mmu = SOFT_MMU_KERNEL;
    else
        c->mmu = SOFT_MMU_KERNEL_AC;
    c->ac_check = user && (c->cr0 & SOFT_CR0_AM) && (c->eflags & SOFT_EFL_AC);
    c->tlb = c->ac_check || c->watch ? nothing : c->ways[c->mmu];
    c->jump_key =
        (c->jump_key & ~(KEY_EPOCH - 1)) | c->mode | (c->stack32 ? KEY_STACK32 : 0) | (user ? KEY_USER : 0);
    if (c->jump_key < KEY_EPOCH)
        c->jump_key += KEY_EPOCH;
    c->mode_dirty = false;
}
