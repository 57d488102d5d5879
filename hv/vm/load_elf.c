// SPDX-License-Identifier: Apache-2.0
/* PVH boot (Xen docs/misc/pvh.pandoc and xen/include/public/arch-x86/hvm/start_info.h): an ELF image, entered
 * in 32-bit protected mode at the address in its Xen note, with EBX pointing to hvm_start_info. */
#include <elf.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/vm/load_private.h"
#include "hv/vm/lowmem.h"
#include "proto/wire.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_INFO_MAGIC 0x336ec578u
#define START_INFO_BYTES 56
#define MODULE_BYTES 32
#define MEMMAP_BYTES 24
#define PHDRS_MAX 256

/* What the loader needs of a program header of either class. */
struct segment {
    uint32_t type;
    uint64_t offset, vaddr, paddr, filesz, memsz, align;
};

struct image {
    const uint8_t *bytes;
    size_t len;
    bool wide; /* ELF64 */
    unsigned count;
    uint64_t table; /* offset of the program headers */
};

bool fy_is_elf(const struct fy_boot_images *images)
{
    return images->kernel_len >= SELFMAG && memcmp(images->kernel, ELFMAG, SELFMAG) == 0;
}

static int read_header(const struct fy_boot_images *images, struct image *im, struct fy_err *e)
{
    const uint8_t *k = images->kernel;
    size_t len = images->kernel_len;
    if (len < sizeof(Elf32_Ehdr) || (k[EI_CLASS] == ELFCLASS64 && len < sizeof(Elf64_Ehdr)))
        return fy_fail(e, FY_ECORRUPT, "ELF kernel: %zu bytes are too few for the header", len);
    if ((k[EI_CLASS] != ELFCLASS32 && k[EI_CLASS] != ELFCLASS64) || k[EI_DATA] != ELFDATA2LSB)
        return fy_fail(e, FY_EUNSUPPORTED,
                       "ELF kernel: class %u, data %u; only little-endian ELF32 and ELF64", k[EI_CLASS],
                       k[EI_DATA]);
    *im = (struct image){.bytes = k, .len = len, .wide = k[EI_CLASS] == ELFCLASS64};
    uint16_t machine = fy_get16(k + offsetof(Elf32_Ehdr, e_machine)); /* the same offset in both classes */
    uint16_t entsize;
    if (im->wide) {
        im->table = fy_get64(k + offsetof(Elf64_Ehdr, e_phoff));
        entsize = fy_get16(k + offsetof(Elf64_Ehdr, e_phentsize));
        im->count = fy_get16(k + offsetof(Elf64_Ehdr, e_phnum));
    } else {
        im->table = fy_get32(k + offsetof(Elf32_Ehdr, e_phoff));
        entsize = fy_get16(k + offsetof(Elf32_Ehdr, e_phentsize));
        im->count = fy_get16(k + offsetof(Elf32_Ehdr, e_phnum));
    }
    if (machine != EM_X86_64 && machine != EM_386)
        return fy_fail(e, FY_EUNSUPPORTED, "ELF kernel: machine %u is not x86", machine);
    size_t want = im->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (entsize != want || !im->count || im->count > PHDRS_MAX)
        return fy_fail(e, FY_ECORRUPT, "ELF kernel: %u program headers of %u bytes", im->count, entsize);
    if (!fy_range_ok(im->table, im->count * want, len))
        return fy_fail(e, FY_ECORRUPT,
                       "ELF kernel: program headers at %#llx lie outside the %zu bytes of the file",
                       (unsigned long long)im->table, len);
    return 0;
}

static struct segment segment_at(const struct image *im, unsigned i)
{
    if (im->wide) {
        const uint8_t *p = im->bytes + im->table + i * sizeof(Elf64_Phdr);
        return (struct segment){.type = fy_get32(p + offsetof(Elf64_Phdr, p_type)),
                                .offset = fy_get64(p + offsetof(Elf64_Phdr, p_offset)),
                                .vaddr = fy_get64(p + offsetof(Elf64_Phdr, p_vaddr)),
                                .paddr = fy_get64(p + offsetof(Elf64_Phdr, p_paddr)),
                                .filesz = fy_get64(p + offsetof(Elf64_Phdr, p_filesz)),
                                .memsz = fy_get64(p + offsetof(Elf64_Phdr, p_memsz)),
                                .align = fy_get64(p + offsetof(Elf64_Phdr, p_align))};
    }
    const uint8_t *p = im->bytes + im->table + i * sizeof(Elf32_Phdr);
    return (struct segment){.type = fy_get32(p + offsetof(Elf32_Phdr, p_type)),
                            .offset = fy_get32(p + offsetof(Elf32_Phdr, p_offset)),
                            .vaddr = fy_get32(p + offsetof(Elf32_Phdr, p_vaddr)),
                            .paddr = fy_get32(p + offsetof(Elf32_Phdr, p_paddr)),
                            .filesz = fy_get32(p + offsetof(Elf32_Phdr, p_filesz)),
                            .memsz = fy_get32(p + offsetof(Elf32_Phdr, p_memsz)),
                            .align = fy_get32(p + offsetof(Elf32_Phdr, p_align))};
}

/* The PVH entry among the notes of one PT_NOTE segment. Returns 1 when found, 0 when not, -1 on error. */
static int scan_notes(const struct image *im, const struct segment *s, uint64_t *entry, struct fy_err *e)
{
    const uint8_t *notes = im->bytes + s->offset;
    uint64_t align = s->align == 8 ? 8 : 4;
    uint64_t at = 0;
    while (fy_range_ok(at, 12, s->filesz)) {
        uint64_t namesz = fy_get32(notes + at);
        uint64_t descsz = fy_get32(notes + at + 4);
        uint32_t type = fy_get32(notes + at + 8);
        uint64_t name = at + 12;
        uint64_t desc = FY_ALIGN_UP(name + namesz, align);
        if (!fy_range_ok(name, namesz, s->filesz) || !fy_range_ok(desc, descsz, s->filesz))
            return fy_fail(e, FY_ECORRUPT,
                           "ELF kernel: the note at %#llx of the file runs out of its segment",
                           (unsigned long long)(s->offset + at));
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && memcmp(notes + name, "Xen", 4) == 0) {
            if (descsz != 4 && descsz != 8)
                return fy_fail(e, FY_ECORRUPT, "ELF kernel: PVH entry note of %llu bytes, must be 4 or 8",
                               (unsigned long long)descsz);
            *entry = descsz == 8 ? fy_get64(notes + desc) : fy_get32(notes + desc);
            return 1;
        }
        at = FY_ALIGN_UP(desc + descsz, align);
    }
    return 0;
}

static int load_segment(struct fy_gmem *m, const struct image *im, const struct segment *s, unsigned i,
                        struct fy_err *e)
{
    if (s->paddr < FY_LOW_END)
        return fy_fail(e, FY_EUNSUPPORTED,
                       "ELF kernel: segment %u loads at %#llx; kernels start at 1 MiB or above", i,
                       (unsigned long long)s->paddr);
    uint8_t *to = fy_gmem_at(m, s->paddr, s->memsz);
    if (!to)
        return fy_fail(e, FY_ERESOURCE, "ELF kernel: segment %u (%#llx bytes at %#llx) lies outside RAM", i,
                       (unsigned long long)s->memsz, (unsigned long long)s->paddr);
    memcpy(to, im->bytes + s->offset, s->filesz);
    memset(to + s->filesz, 0, s->memsz - s->filesz);
    fy_gmem_mark(m, s->paddr, s->memsz);
    return 0;
}

/* Load every segment, find the entry. *end: first byte behind the image below the hole. */
static int load_segments(struct fy_gmem *m, const struct image *im, uint64_t *entry, uint64_t *end,
                         struct fy_err *e)
{
    bool found = false;
    bool inside = false;
    *end = FY_LOW_END;
    for (unsigned i = 0; i < im->count; i++) {
        struct segment s = segment_at(im, i);
        if (s.type != PT_LOAD && s.type != PT_NOTE)
            continue;
        if (!fy_range_ok(s.offset, s.filesz, im->len) || (s.type == PT_LOAD && s.filesz > s.memsz))
            return fy_fail(
                e, FY_ECORRUPT,
                "ELF kernel: segment %u (%#llx bytes at %#llx) lies outside the %zu bytes of the file", i,
                (unsigned long long)s.filesz, (unsigned long long)s.offset, im->len);
        if (s.type == PT_NOTE && !found) {
            int rc = scan_notes(im, &s, entry, e);
            if (rc < 0)
                return -1;
            found = rc > 0;
        }
        if (s.type == PT_LOAD && s.memsz) {
            if (load_segment(m, im, &s, i, e))
                return -1;
            if (s.paddr < FY_HOLE_START)
                *end = FY_MAX(*end, s.paddr + s.memsz);
        }
    }
    if (!found)
        return fy_fail(e, FY_EUNSUPPORTED,
                       "ELF kernel: no PVH entry (Xen note 18); is it built with CONFIG_PVH?");
    for (unsigned i = 0; i < im->count && !inside; i++) {
        struct segment s = segment_at(im, i);
        inside = s.type == PT_LOAD && *entry >= s.paddr && *entry - s.paddr < s.memsz;
    }
    if (!inside || *entry > UINT32_MAX)
        return fy_fail(e, FY_ECORRUPT, "ELF kernel: its PVH entry %#llx lies in no segment",
                       (unsigned long long)*entry);
    return 0;
}

static int write_start_info(struct fy_gmem *m, const struct fy_boot_images *images, uint64_t initrd,
                            struct fy_err *e)
{
    struct fy_ram_range map[16];
    size_t entries = fy_memory_map(m, map, FY_ARRAY_LEN(map));
    uint8_t table[16 * MEMMAP_BYTES] = {0};
    for (size_t i = 0; i < entries; i++) {
        fy_put64(table + i * MEMMAP_BYTES, map[i].base);
        fy_put64(table + i * MEMMAP_BYTES + 8, map[i].bytes);
        fy_put32(table + i * MEMMAP_BYTES + 16, map[i].type);
    }
    uint8_t module[MODULE_BYTES] = {0};
    fy_put64(module, initrd);
    fy_put64(module + 8, images->initrd_len);
    uint8_t info[START_INFO_BYTES] = {0};
    fy_put32(info, START_INFO_MAGIC);
    fy_put32(info + 4, 1);
    fy_put32(info + 12, initrd ? 1 : 0);
    fy_put64(info + 16, initrd ? FY_LOW_MODULES : 0);
    fy_put64(info + 24, FY_LOW_CMDLINE);
    fy_put64(info + 32, images->acpi_rsdp);
    fy_put64(info + 40, FY_LOW_MEMMAP);
    fy_put32(info + 48, (uint32_t)entries);
    if (fy_gmem_write(m, FY_LOW_MEMMAP, table, entries * MEMMAP_BYTES, e) ||
        fy_gmem_write(m, FY_LOW_MODULES, module, sizeof module, e) ||
        fy_gmem_write(m, FY_LOW_START_INFO, info, sizeof info, e))
        return -1;
    return 0;
}

int fy_load_elf(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                struct fy_err *e)
{
    struct image im = {0};
    uint64_t entry = 0;
    uint64_t end;
    uint64_t initrd;
    if (read_header(images, &im, e) || load_segments(m, &im, &entry, &end, e) ||
        fy_load_cmdline(m, images->cmdline, FY_LOW_CMDLINE_MAX, e) ||
        fy_load_initrd(m, images, FY_ALIGN_UP(end, FY_PAGE_SIZE), FY_HOLE_START, &initrd, e) ||
        write_start_info(m, images, initrd, e))
        return -1;
    *boot = (struct fy_boot){.rip = entry, .rbx = FY_LOW_START_INFO, .rsp = FY_LOW_STACK};
    return 0;
}

bool fy_elf_has_pvh(const struct fy_boot_images *images)
{
    struct image im;
    uint64_t entry;
    if (!fy_is_elf(images) || read_header(images, &im, NULL) < 0)
        return false;
    for (unsigned i = 0; i < im.count; i++) {
        struct segment s = segment_at(&im, i);
        if (s.type == PT_NOTE && fy_range_ok(s.offset, s.filesz, im.len) &&
            scan_notes(&im, &s, &entry, NULL) > 0)
            return true;
    }
    return false;
}

int fy_load_elf_segments(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_loaded *l,
                         struct fy_err *e)
{
    struct image im;
    bool found = false;
    if (read_header(images, &im, e) < 0)
        return -1;
    uint64_t entry = im.wide ? fy_get64(im.bytes + offsetof(Elf64_Ehdr, e_entry))
                             : fy_get32(im.bytes + offsetof(Elf32_Ehdr, e_entry));
    for (unsigned i = 0; i < im.count; i++) {
        struct segment s = segment_at(&im, i);
        if (s.type != PT_LOAD || !s.memsz)
            continue;
        if (!fy_range_ok(s.offset, s.filesz, im.len) || s.filesz > s.memsz)
            return fy_fail(e, FY_ECORRUPT, "ELF kernel: segment %u runs out of the %zu bytes of the file", i,
                           im.len);
        if (fy_load_part(m, l, s.paddr, im.bytes + s.offset, s.filesz, s.memsz, e) < 0)
            return fy_fail_prefix(e, "ELF kernel: segment %u", i);
        if (!found && entry >= s.vaddr && entry - s.vaddr < s.memsz) {
            l->entry = s.paddr + (entry - s.vaddr);
            found = true;
        }
    }
    return found ? 0
                 : fy_fail(e, FY_ECORRUPT, "ELF kernel: its entry %#llx lies in no segment",
                           (unsigned long long)entry);
}
