// SPDX-License-Identifier: Apache-2.0
/* What a Multiboot image is told (Multiboot Specification 0.6.96, section 3.3; Multiboot2 Specification 2.0,
 * section 3.6): memory, command line, module, and in version 2 the ACPI root. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/checked.h"
#include "hv/vm/lowmem.h"
#include "hv/vm/multiboot.h"
#include "proto/wire.h"

#define LOADER "Ferry"
#define RANGES_MAX 16
#define RSDP_BYTES 36

#define MB1_MEMORY 0x001u
#define MB1_CMDLINE 0x004u
#define MB1_MODULES 0x008u
#define MB1_MMAP 0x040u
#define MB1_LOADER 0x200u
#define MB1_BYTES 128
#define MB1_MODULE_BYTES 16
#define MB1_ENTRY_BYTES 24

enum { TAG_CMDLINE = 1, TAG_LOADER = 2, TAG_MODULE = 3, TAG_MEMORY = 4, TAG_MMAP = 6, TAG_ACPI_NEW = 15 };
#define MB2_ENTRY_BYTES 24

size_t fy_multiboot_info_bytes(const char *cmdline)
{
    return 1024 + strlen(cmdline) + RSDP_BYTES;
}

uint64_t fy_multiboot_place(const struct fy_gmem *m, const struct fy_loaded *l, size_t bytes)
{
    uint64_t at = FY_PAGE_SIZE;
    for (unsigned i = 0; i < l->count; i++) {
        uint64_t base = l->ranges[i].base, end = base + l->ranges[i].bytes;
        if (base < at + bytes && at < end) {
            at = FY_ALIGN_UP(end, FY_PAGE_SIZE);
            i = -1u; /* again from the first: `at` only grows */
        }
        if (at + bytes > FY_LOW_RAM_END)
            break;
    }
    if (at + bytes > FY_LOW_RAM_END)
        at = FY_ALIGN_UP(l->end, FY_PAGE_SIZE);
    return fy_gmem_at(m, at, bytes) ? at : 0;
}

struct out {
    uint8_t *bytes;
    size_t len, room;
    uint64_t base;
};

/* The next len bytes, zeroed, at an alignment of 8. The room was counted before. */
static uint8_t *take(struct out *o, size_t len)
{
    uint8_t *p = o->bytes + o->len;
    o->len += FY_ALIGN_UP(len, 8u);
    return p;
}

static uint64_t address(const struct out *o, const uint8_t *p)
{
    return o->base + (uint64_t)(p - o->bytes);
}

static uint32_t put_text(struct out *o, const char *text)
{
    size_t len = strlen(text) + 1;
    uint8_t *p = take(o, len);
    memcpy(p, text, len);
    return (uint32_t)address(o, p);
}

/* KiB of RAM from 0 and from 1 MiB. */
static void put_memory(uint8_t *p, const struct fy_gmem *m)
{
    fy_put32(p, FY_LOW_RAM_END >> 10);
    fy_put32(p + 4, (uint32_t)((fy_low_ram_end(m) - FY_LOW_END) >> 10));
}

static void info1(struct out *o, const struct fy_gmem *m, const struct fy_boot_images *im,
                  const char *cmdline, uint64_t module)
{
    struct fy_ram_range map[RANGES_MAX];
    size_t n = fy_memory_map(m, map, RANGES_MAX);
    uint8_t *p = take(o, MB1_BYTES);
    fy_put32(p, MB1_MEMORY | MB1_CMDLINE | MB1_MODULES | MB1_MMAP | MB1_LOADER);
    put_memory(p + 4, m);
    uint8_t *mods = take(o, MB1_MODULE_BYTES);
    fy_put32(p + 20, module ? 1 : 0);
    fy_put32(p + 24, (uint32_t)address(o, mods));
    fy_put32(mods, (uint32_t)module);
    fy_put32(mods + 4, (uint32_t)(module + (module ? im->initrd_len : 0)));
    uint8_t *mmap = take(o, n * MB1_ENTRY_BYTES);
    for (size_t i = 0; i < n; i++) {
        uint8_t *q = mmap + i * MB1_ENTRY_BYTES;
        fy_put32(q, MB1_ENTRY_BYTES - 4);
        fy_put64(q + 4, map[i].base);
        fy_put64(q + 12, map[i].bytes);
        fy_put32(q + 20, map[i].type);
    }
    fy_put32(p + 44, (uint32_t)(n * MB1_ENTRY_BYTES));
    fy_put32(p + 48, (uint32_t)address(o, mmap));
    fy_put32(mods + 8, put_text(o, ""));
    fy_put32(p + 64, put_text(o, LOADER));
    fy_put32(p + 16, put_text(o, cmdline));
}

static uint8_t *tag(struct out *o, uint32_t type, size_t body)
{
    uint8_t *p = take(o, 8 + body);
    fy_put32(p, type);
    fy_put32(p + 4, (uint32_t)(8 + body));
    return p + 8;
}

static void text_tag(struct out *o, uint32_t type, const char *text)
{
    memcpy(tag(o, type, strlen(text) + 1), text, strlen(text) + 1);
}

static void info2(struct out *o, const struct fy_gmem *m, const struct fy_boot_images *im,
                  const char *cmdline, uint64_t module)
{
    struct fy_ram_range map[RANGES_MAX];
    size_t n = fy_memory_map(m, map, RANGES_MAX);
    uint8_t *head = take(o, 8);
    text_tag(o, TAG_CMDLINE, cmdline);
    text_tag(o, TAG_LOADER, LOADER);
    if (module) {
        uint8_t *p = tag(o, TAG_MODULE, 9);
        fy_put32(p, (uint32_t)module);
        fy_put32(p + 4, (uint32_t)(module + im->initrd_len));
    }
    put_memory(tag(o, TAG_MEMORY, 8), m);
    uint8_t *p = tag(o, TAG_MMAP, 8 + n * MB2_ENTRY_BYTES);
    fy_put32(p, MB2_ENTRY_BYTES);
    for (size_t i = 0; i < n; i++) {
        uint8_t *q = p + 8 + i * MB2_ENTRY_BYTES;
        fy_put64(q, map[i].base);
        fy_put64(q + 8, map[i].bytes);
        fy_put32(q + 16, map[i].type);
    }
    const uint8_t *rsdp = im->acpi_rsdp ? fy_gmem_at(m, im->acpi_rsdp, RSDP_BYTES) : NULL;
    if (rsdp)
        memcpy(tag(o, TAG_ACPI_NEW, RSDP_BYTES), rsdp, RSDP_BYTES);
    tag(o, 0, 0);
    fy_put32(head, (uint32_t)o->len);
}

int fy_multiboot_info(struct fy_gmem *m, const struct fy_boot_images *images, unsigned version,
                      const struct fy_loaded *l, uint64_t module, uint64_t *at, struct fy_err *e)
{
    const char *cmdline = images->cmdline ? images->cmdline : "";
    if (strlen(cmdline) >= FY_LOW_CMDLINE_MAX)
        return fy_fail(e, FY_EUSAGE, "command line of %zu characters, at most %u", strlen(cmdline),
                       FY_LOW_CMDLINE_MAX - 1);
    struct out o = {.room = fy_multiboot_info_bytes(cmdline)};
    o.base = *at = fy_multiboot_place(m, l, o.room);
    if (!o.base)
        return fy_fail(e, FY_ERESOURCE, "Multiboot: no RAM is left for what the image is told");
    o.bytes = calloc(1, o.room);
    if (!o.bytes)
        return fy_fail(e, FY_ERESOURCE, "no memory for Multiboot information");
    if (version == 1)
        info1(&o, m, images, cmdline, module);
    else
        info2(&o, m, images, cmdline, module);
    int r = fy_gmem_write(m, o.base, o.bytes, o.len, e);
    free(o.bytes);
    return r;
}
