// SPDX-License-Identifier: Apache-2.0
/* The working area: RAM from SC_AREA up, mapped by 2 MiB pages, its pages numbered through. */
#include "guest.h"

struct start_info { /* Xen public/arch-x86/hvm/start_info.h, version 1 */
    uint32_t magic, version, flags, modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};

struct memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};

extern uint64_t pml4[512], pdpt[512];
static uint64_t tables_used;

/* Map [from, to) above 4 GiB. A table is complete before it is linked. */
static void map(uint64_t from, uint64_t to)
{
    for (uint64_t gib = from >> 30; gib < (to + (1ull << 30) - 1) >> 30 && gib < 512; gib++) {
        if (pdpt[gib])
            continue;
        uint64_t *pd = (uint64_t *)(SC_TABLES + tables_used);
        tables_used += SC_PAGE;
        for (uint64_t i = 0; i < 512; i++)
            pd[i] = gib << 30 | i << 21 | 0x87;
        *(volatile uint64_t *)&pdpt[gib] = (uint64_t)pd | 7;
    }
}

void memory_init(uint64_t start_info)
{
    const struct start_info *si = (const struct start_info *)start_info;
    const struct memmap_entry *e = (const struct memmap_entry *)si->memmap;
    uint64_t want = opt.mem_mib << 8;
    unsigned n = 0;
    for (unsigned i = 0; i < si->memmap_entries && want && n < SC_SEGMENTS; i++) {
        uint64_t from = (e[i].addr + SC_PAGE - 1) & ~(SC_PAGE - 1);
        uint64_t to = (e[i].addr + e[i].size) & ~(SC_PAGE - 1);
        if (from < SC_AREA)
            from = SC_AREA;
        if (e[i].type != 1 || from >= to)
            continue;
        uint64_t pages = (to - from) / SC_PAGE;
        if (pages > want)
            pages = want;
        map(from, from + pages * SC_PAGE);
        STATUS->segment[n].gpa = from;
        STATUS->segment[n].pages = pages;
        STATUS->pages += pages;
        want -= pages;
        n++;
    }
    STATUS->segments = n;
}

uint64_t *page_at(uint64_t page)
{
    for (unsigned i = 0;; i++) {
        uint64_t pages = STATUS->segment[i].pages;
        if (page < pages || i + 1 >= STATUS->segments)
            return (uint64_t *)(STATUS->segment[i].gpa + page * SC_PAGE);
        page -= pages;
    }
}
