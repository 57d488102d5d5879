// SPDX-License-Identifier: Apache-2.0
/* bzImage by its 64-bit entry, or its 32-bit one where it has no other (Linux
 * Documentation/arch/x86/boot.rst, "64-bit Boot Protocol" and "32-bit Boot Protocol", and zero-page.rst). */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/vm/bzimage.h"
#include "hv/vm/load_private.h"
#include "hv/vm/lowmem.h"
#include "proto/wire.h"

#define BP_BYTES 4096
#define BP_ACPI_RSDP 0x070
#define BP_E820_ENTRIES 0x1e8
#define BP_HEADER_ROOM 0x290 /* edd_mbr_sig_buffer follows the setup header */
#define BP_E820_TABLE 0x2d0
#define E820_BYTES 20

#define ENTRY_64 0x200

#define PTE_PRESENT_WRITE 0x3ull
#define PTE_LARGE 0x80ull

struct bzimage {
    const uint8_t *header; /* the file */
    const uint8_t *code;   /* protected-mode part */
    size_t code_len;
    uint64_t align, pref, init_size;
    bool relocatable;
    bool wide; /* has the 64-bit entry */
};

bool fy_is_bzimage(const struct fy_boot_images *images)
{
    return images->kernel_len > HDR_MAGIC + 4 && fy_get16(images->kernel + HDR_BOOT_FLAG) == 0xaa55 &&
           memcmp(images->kernel + HDR_MAGIC, "HdrS", 4) == 0;
}

static int parse(const struct fy_boot_images *images, struct bzimage *z, struct fy_err *e)
{
    const uint8_t *k = images->kernel;
    if (images->kernel_len < HDR_END)
        return fy_fail(e, FY_ECORRUPT, "bzImage: %zu bytes are too few for the setup header",
                       images->kernel_len);
    unsigned version = fy_get16(k + HDR_VERSION);
    if (version < 0x20a)
        return fy_fail(e, FY_EUNSUPPORTED, "bzImage: boot protocol %u.%02u, 2.10 is needed", version >> 8,
                       version & 0xff);
    if (!(k[HDR_LOADFLAGS] & LOADED_HIGH))
        return fy_fail(e, FY_EUNSUPPORTED, "bzImage: loads below 1 MiB");
    size_t setup = ((size_t)(k[HDR_SETUP_SECTS] ? k[HDR_SETUP_SECTS] : 4) + 1) * 512;
    uint64_t code_len = (uint64_t)fy_get32(k + HDR_SYSSIZE) * 16;
    if (setup >= images->kernel_len || images->kernel_len - setup <= ENTRY_64)
        return fy_fail(e, FY_ECORRUPT, "bzImage: %zu bytes end within the setup code", images->kernel_len);
    /* syssize is in paragraphs: the last one may be short */
    if (code_len > FY_ALIGN_UP(images->kernel_len - setup, 16))
        return fy_fail(e, FY_ECORRUPT, "bzImage: cut off: %zu bytes of code, the header says %llu",
                       images->kernel_len - setup, (unsigned long long)code_len);
    *z = (struct bzimage){.header = k,
                          .code = k + setup,
                          .code_len = images->kernel_len - setup,
                          .align = fy_get32(k + HDR_KERNEL_ALIGNMENT),
                          .pref = fy_get64(k + HDR_PREF_ADDRESS),
                          .init_size = fy_get32(k + HDR_INIT_SIZE),
                          .relocatable = k[HDR_RELOCATABLE],
                          .wide = version >= 0x20c && fy_get16(k + HDR_XLOADFLAGS) & XLF_KERNEL_64};
    if (!z->align || z->align & (z->align - 1))
        return fy_fail(e, FY_ECORRUPT, "bzImage: kernel alignment %#llx is no power of two",
                       (unsigned long long)z->align);
    z->init_size = FY_MAX(z->init_size, z->code_len);
    return 0;
}

/* The preferred address where RAM has room for it, else as low as alignment allows. */
static int place(const struct fy_gmem *m, const struct bzimage *z, uint64_t *at, struct fy_err *e)
{
    uint64_t end = fy_low_ram_end(m);
    *at = z->pref;
    if (z->pref >= FY_LOW_END && fy_range_ok(z->pref, z->init_size, end))
        return 0;
    *at = FY_ALIGN_UP((uint64_t)FY_LOW_END, z->align);
    if (z->relocatable && fy_range_ok(*at, z->init_size, end))
        return 0;
    return fy_fail(e, FY_ERESOURCE, "bzImage: the kernel needs %llu KiB at %#llx, RAM ends at %#llx",
                   (unsigned long long)(z->init_size >> 10), (unsigned long long)z->pref,
                   (unsigned long long)end);
}

static int write_boot_params(struct fy_gmem *m, const struct fy_boot_images *images, const struct bzimage *z,
                             uint64_t initrd, struct fy_err *e)
{
    uint8_t bp[BP_BYTES] = {0};
    size_t header_end = FY_MIN((size_t)HDR_MAGIC + z->header[HDR_JUMP_LENGTH], (size_t)BP_HEADER_ROOM);
    header_end = FY_MIN(FY_MAX(header_end, (size_t)HDR_END), images->kernel_len);
    memcpy(bp + HDR_SETUP_SECTS, z->header + HDR_SETUP_SECTS, header_end - HDR_SETUP_SECTS);
    fy_put64(bp + BP_ACPI_RSDP, images->acpi_rsdp);
    bp[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    fy_put32(bp + HDR_CMD_LINE_PTR, FY_LOW_CMDLINE);
    fy_put32(bp + HDR_RAMDISK_IMAGE, (uint32_t)initrd);
    fy_put32(bp + HDR_RAMDISK_SIZE, initrd ? (uint32_t)images->initrd_len : 0);
    struct fy_ram_range map[16];
    size_t n = fy_memory_map(m, map, FY_ARRAY_LEN(map));
    bp[BP_E820_ENTRIES] = (uint8_t)n;
    for (size_t i = 0; i < n; i++) {
        uint8_t *p = bp + BP_E820_TABLE + i * E820_BYTES;
        fy_put64(p, map[i].base);
        fy_put64(p + 8, map[i].bytes);
        fy_put32(p + 16, map[i].type);
    }
    return fy_gmem_write(m, FY_LOW_BOOT_PARAMS, bp, sizeof bp, e);
}

/* Identity map of the first 4 GiB: one PML4 entry, four PDPT entries, 2048 large pages. */
static int write_page_tables(struct fy_gmem *m, struct fy_err *e)
{
    uint8_t page[FY_PAGE_SIZE] = {0};
    uint64_t pml4 = FY_LOW_PAGE_TABLES;
    uint64_t pdpt = pml4 + FY_PAGE_SIZE;
    uint64_t pd = pdpt + FY_PAGE_SIZE;
    fy_put64(page, pdpt | PTE_PRESENT_WRITE);
    if (fy_gmem_write(m, pml4, page, sizeof page, e))
        return -1;
    for (unsigned i = 0; i < 4; i++)
        fy_put64(page + 8 * i, (pd + i * FY_PAGE_SIZE) | PTE_PRESENT_WRITE);
    if (fy_gmem_write(m, pdpt, page, sizeof page, e))
        return -1;
    for (uint64_t i = 0; i < 4; i++) {
        for (uint64_t j = 0; j < 512; j++)
            fy_put64(page + 8 * j, (i << 30 | j << 21) | PTE_PRESENT_WRITE | PTE_LARGE);
        if (fy_gmem_write(m, pd + i * FY_PAGE_SIZE, page, sizeof page, e))
            return -1;
    }
    return 0;
}

static int write_gdt(struct fy_gmem *m, bool wide, struct fy_boot *boot, struct fy_err *e)
{
    uint8_t gdt[32] = {0};
    fy_put64(gdt + 0x10, wide ? 0x00af9b000000ffffull : 0x00cf9b000000ffffull); /* __BOOT_CS */
    fy_put64(gdt + 0x18, 0x00cf93000000ffffull);                                /* __BOOT_DS: flat data */
    boot->gdt_base = FY_LOW_GDT;
    boot->gdt_limit = sizeof gdt - 1;
    return fy_gmem_write(m, FY_LOW_GDT, gdt, sizeof gdt, e);
}

int fy_load_bzimage(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                    struct fy_err *e)
{
    struct bzimage z = {0};
    uint64_t at;
    uint64_t initrd;
    if (parse(images, &z, e) || place(m, &z, &at, e))
        return -1;
    if (fy_gmem_write(m, at, z.code, z.code_len, e))
        return fy_fail_prefix(e, "bzImage");
    uint64_t initrd_max = fy_get32(z.header + HDR_INITRD_ADDR_MAX);
    uint32_t cmdline_max = fy_get32(z.header + HDR_CMDLINE_SIZE);
    *boot = (struct fy_boot){.long_mode = z.wide,
                             .rip = z.wide ? at + ENTRY_64 : at,
                             .rsp = FY_LOW_STACK,
                             .rsi = FY_LOW_BOOT_PARAMS,
                             .cr3 = FY_LOW_PAGE_TABLES};
    if (fy_load_cmdline(m, images->cmdline, cmdline_max ? cmdline_max : 255, e) ||
        fy_load_initrd(m, images, FY_ALIGN_UP(at + z.init_size, FY_PAGE_SIZE),
                       initrd_max ? initrd_max + 1 : FY_HOLE_START, &initrd, e) ||
        write_boot_params(m, images, &z, initrd, e) || write_page_tables(m, e) ||
        write_gdt(m, z.wide, boot, e))
        return -1;
    return 0;
}
