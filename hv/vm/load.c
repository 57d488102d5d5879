// SPDX-License-Identifier: Apache-2.0
#include "hv/vm/load.h"

#include <string.h>

#include "hv/base/checked.h"
#include "hv/vm/load_private.h"
#include "hv/vm/lowmem.h"

uint64_t fy_low_ram_end(const struct fy_gmem *m)
{
    for (unsigned i = 0; i < m->ram_slots; i++)
        if (m->slots[i].gpa == 0)
            return m->slots[i].bytes;
    return 0;
}

size_t fy_memory_map(const struct fy_gmem *m, struct fy_ram_range *out, size_t room)
{
    struct fy_ram_range map[4 + FY_SLOTS_MAX];
    size_t n = 0;
    map[n++] = (struct fy_ram_range){0, FY_LOW_RAM_END, 1};
    map[n++] = (struct fy_ram_range){FY_LOW_RAM_END, FY_LOW_ACPI - FY_LOW_RAM_END, 2};
    map[n++] = (struct fy_ram_range){FY_LOW_ACPI, FY_LOW_END - FY_LOW_ACPI, 3};
    for (unsigned i = 0; i < m->ram_slots; i++) {
        const struct fy_slot *s = &m->slots[i];
        if (s->gpa)
            map[n++] = (struct fy_ram_range){s->gpa, s->bytes, 1};
        else if (s->bytes > FY_LOW_END)
            map[n++] = (struct fy_ram_range){FY_LOW_END, s->bytes - FY_LOW_END, 1};
    }
    n = FY_MIN(n, room);
    memcpy(out, map, n * sizeof map[0]);
    return n;
}

int fy_load_cmdline(struct fy_gmem *m, const char *cmdline, size_t limit, struct fy_err *e)
{
    size_t len = cmdline ? strlen(cmdline) : 0;
    limit = FY_MIN(limit, FY_LOW_CMDLINE_MAX - 1);
    if (len > limit)
        return fy_fail(e, FY_EUSAGE, "command line of %zu characters, this kernel takes %zu", len, limit);
    return fy_gmem_write(m, FY_LOW_CMDLINE, cmdline ? cmdline : "", len + 1, e);
}

int fy_load_initrd(struct fy_gmem *m, const struct fy_boot_images *images, uint64_t from, uint64_t below,
                   uint64_t *at, struct fy_err *e)
{
    *at = 0;
    if (!images->initrd || !images->initrd_len)
        return 0;
    uint64_t end = FY_MIN(below, fy_low_ram_end(m));
    if (images->initrd_len > UINT32_MAX || end < images->initrd_len ||
        ((end - images->initrd_len) & ~(uint64_t)(FY_PAGE_SIZE - 1)) < from)
        return fy_fail(e, FY_ERESOURCE,
                       "initrd of %zu bytes does not fit between %#llx (end of the kernel) and %#llx",
                       images->initrd_len, (unsigned long long)from, (unsigned long long)end);
    *at = (end - images->initrd_len) & ~(uint64_t)(FY_PAGE_SIZE - 1);
    return fy_gmem_write(m, *at, images->initrd, images->initrd_len, e);
}

int fy_load_part(struct fy_gmem *m, struct fy_loaded *l, uint64_t at, const uint8_t *bytes, uint64_t len,
                 uint64_t memory, struct fy_err *e)
{
    bool low = at >= FY_PAGE_SIZE && fy_range_ok(at, memory, FY_LOW_RAM_END);
    uint8_t *to = low || at >= FY_LOW_END ? fy_gmem_at(m, at, memory) : NULL;
    if (!to || len > memory)
        return fy_fail(e, FY_ERESOURCE, "%#llx bytes at %#llx do not lie in usable RAM",
                       (unsigned long long)memory, (unsigned long long)at);
    if (l->count == FY_LOADED_MAX)
        return fy_fail(e, FY_EUNSUPPORTED, "more than %d parts", FY_LOADED_MAX);
    memcpy(to, bytes, len);
    memset(to + len, 0, memory - len);
    fy_gmem_mark(m, at, memory);
    l->ranges[l->count].base = at;
    l->ranges[l->count++].bytes = memory;
    if (at < FY_HOLE_START)
        l->end = FY_MAX(l->end, at + memory);
    return 0;
}

int fy_load_kernel(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                   struct fy_err *e)
{
    if (fy_low_ram_end(m) <= FY_LOW_END)
        return fy_fail(e, FY_ERESOURCE, "%llu bytes of RAM, a kernel needs more than 1 MiB",
                       (unsigned long long)m->bytes);
    if (fy_is_multiboot(images) && !fy_elf_has_pvh(images))
        return fy_load_multiboot(m, images, boot, e);
    if (fy_is_elf(images))
        return fy_load_elf(m, images, boot, e);
    if (fy_is_bzimage(images))
        return fy_load_bzimage(m, images, boot, e);
    return fy_fail(e, FY_EUNSUPPORTED,
                   "the kernel image (%zu bytes) is no ELF file, no bzImage and no Multiboot image",
                   images->kernel_len);
}
