// SPDX-License-Identifier: Apache-2.0
/* Linux Documentation/arch/x86/boot.rst; items as in hv/dev/fwcfg.h. */
#include "hv/vm/fwkernel.h"

#include <string.h>

#include "hv/base/checked.h"
#include "hv/dev/fwcfg.h"
#include "hv/vm/bzimage.h"
#include "hv/vm/load_private.h"
#include "proto/wire.h"

#define SECTOR 512u
#define SETUP_MAX (65u * SECTOR)

/* Where the BIOS's option ROM puts it all: setup code with its heap and stack in one segment. */
#define SETUP_AT 0x10000u
#define HEAP_END 0xe000u
#define CMDLINE_AT 0x20000u
#define CMDLINE_MAX 0x10000u
#define KERNEL_AT 0x100000u
#define TOP_MARGIN (2u << 20) /* what a BIOS keeps at the end of RAM: its tables */
#define TRANSFER_MAX (256u << 20)
#define ROM_FILE "genroms/ferry-kernel.bin"

static int check(const uint8_t *s, uint64_t len, size_t *setup, struct fy_err *e)
{
    if (len < HDR_END || fy_get16(s + HDR_BOOT_FLAG) != 0xaa55 || memcmp(s + HDR_MAGIC, "HdrS", 4) != 0)
        return fy_fail(e, FY_EUNSUPPORTED, "with firmware a kernel is a bzImage of Linux; this is none");
    unsigned version = fy_get16(s + HDR_VERSION);
    *setup = ((size_t)(s[HDR_SETUP_SECTS] ? s[HDR_SETUP_SECTS] : 4) + 1) * SECTOR;
    if (version < 0x20a || !(s[HDR_LOADFLAGS] & LOADED_HIGH))
        return fy_fail(e, FY_EUNSUPPORTED, "bzImage: boot protocol %u.%02u, 2.10 is needed", version >> 8,
                       version & 0xff);
    if (*setup > SETUP_MAX || *setup >= len)
        return fy_fail(e, FY_ECORRUPT, "bzImage: %zu bytes of setup code in a file of %llu", *setup,
                       (unsigned long long)len);
    if (len - *setup > TRANSFER_MAX)
        return fy_fail(e, FY_ERESOURCE, "bzImage: more than %u MiB", TRANSFER_MAX >> 20);
    return 0;
}

/* As high as the kernel allows, below what the BIOS keeps. */
static int place_initrd(const struct fy_machine *m, const uint8_t *s, uint64_t bytes, uint64_t *at,
                        struct fy_err *e)
{
    uint64_t from = FY_MAX((uint64_t)KERNEL_AT, fy_get64(s + HDR_PREF_ADDRESS));
    uint64_t end = fy_low_ram_end(m->gmem), top = (uint64_t)fy_get32(s + HDR_INITRD_ADDR_MAX) + 1;
    *at = 0;
    if (!bytes)
        return 0;
    end = FY_MIN(end > TOP_MARGIN ? end - TOP_MARGIN : 0, top);
    if (from > end || bytes > TRANSFER_MAX || fy_get32(s + HDR_INIT_SIZE) > end - from ||
        bytes + FY_PAGE_SIZE > end - from - fy_get32(s + HDR_INIT_SIZE))
        return fy_fail(e, FY_ERESOURCE, "initrd of %llu bytes: memory ends at %#llx, and %u MiB are the most",
                       (unsigned long long)bytes, (unsigned long long)end, TRANSFER_MAX >> 20);
    *at = (end - bytes) & ~(uint64_t)(FY_PAGE_SIZE - 1);
    return 0;
}

static int set32(struct fy_device *fw, uint16_t key, uint64_t v, struct fy_err *e)
{
    uint8_t bytes[4];
    fy_put32(bytes, (uint32_t)v);
    return fy_fwcfg_set(fw, key, bytes, sizeof bytes, e);
}

static void fill_header(uint8_t *s, uint64_t initrd, uint64_t initrd_bytes)
{
    s[HDR_TYPE_OF_LOADER] = LOADER_UNDEFINED;
    s[HDR_LOADFLAGS] |= CAN_USE_HEAP;
    fy_put16(s + HDR_HEAP_END, HEAP_END - 0x200);
    fy_put32(s + HDR_CMD_LINE_PTR, CMDLINE_AT);
    fy_put32(s + HDR_RAMDISK_IMAGE, (uint32_t)initrd);
    fy_put32(s + HDR_RAMDISK_SIZE, (uint32_t)initrd_bytes);
}

static int set_rom(struct fy_device *fw, struct fy_err *e)
{
    static const char first[] = "/rom@" ROM_FILE;
    uint8_t rom[FY_FWKERNEL_ROM_BYTES];
    fy_fwkernel_rom(rom);
    return fy_fwcfg_set_file(fw, ROM_FILE, rom, sizeof rom, e) < 0
               ? -1
               : fy_fwcfg_set_file(fw, "bootorder", first, sizeof first, e);
}

int fy_fwkernel_set(struct fy_machine *m, struct fy_err *e)
{
    const Ferry__BootImages *b = m->desc->images;
    struct fy_device *fw = fy_machine_device(m, "fwcfg");
    const uint8_t *kernel = fy_gmem_images(m->gmem, 0, b->kernel_bytes);
    uint64_t initrd_at = FY_ALIGN_UP(b->kernel_bytes, FY_PAGE_SIZE), initrd;
    const uint8_t *bytes = fy_gmem_images(m->gmem, initrd_at, b->initrd_bytes);
    uint8_t s[SETUP_MAX] = {0}; /* a copy: the original may change while it is looked at */
    size_t setup = 0, cmdline = strlen(m->desc->cmdline);
    if (!fw || !kernel || !bytes)
        return fy_fail(e, FY_EFAIL, "no boot images for firmware");
    memcpy(s, kernel, FY_MIN(b->kernel_bytes, (uint64_t)sizeof s));
    if (check(s, b->kernel_bytes, &setup, e) < 0 || place_initrd(m, s, b->initrd_bytes, &initrd, e) < 0)
        return -1;
    if (cmdline >= CMDLINE_MAX || cmdline > fy_get32(s + HDR_CMDLINE_SIZE))
        return fy_fail(e, FY_EUSAGE, "command line of %zu characters, this kernel takes %u", cmdline,
                       fy_get32(s + HDR_CMDLINE_SIZE));
    fill_header(s, initrd, b->initrd_bytes);
    return set32(fw, FY_FWCFG_SETUP_ADDR, SETUP_AT, e) < 0 || set32(fw, FY_FWCFG_SETUP_SIZE, setup, e) < 0 ||
                   fy_fwcfg_set(fw, FY_FWCFG_SETUP_DATA, s, setup, e) < 0 ||
                   set32(fw, FY_FWCFG_CMDLINE_ADDR, CMDLINE_AT, e) < 0 ||
                   set32(fw, FY_FWCFG_CMDLINE_SIZE, cmdline + 1, e) < 0 ||
                   fy_fwcfg_set(fw, FY_FWCFG_CMDLINE_DATA, m->desc->cmdline, cmdline + 1, e) < 0 ||
                   set32(fw, FY_FWCFG_KERNEL_ADDR, KERNEL_AT, e) < 0 ||
                   set32(fw, FY_FWCFG_KERNEL_SIZE, b->kernel_bytes - setup, e) < 0 ||
                   fy_fwcfg_borrow(fw, FY_FWCFG_KERNEL_DATA, kernel + setup, b->kernel_bytes - setup, e) <
                       0 ||
                   set32(fw, FY_FWCFG_INITRD_ADDR, initrd, e) < 0 ||
                   set32(fw, FY_FWCFG_INITRD_SIZE, b->initrd_bytes, e) < 0 ||
                   fy_fwcfg_borrow(fw, FY_FWCFG_INITRD_DATA, bytes, b->initrd_bytes, e) < 0 ||
                   set_rom(fw, e) < 0
               ? -1
               : 0;
}
