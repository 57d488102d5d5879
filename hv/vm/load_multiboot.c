// SPDX-License-Identifier: Apache-2.0
/* Multiboot images: finding and obeying the header (Multiboot Specification 0.6.96, section 3.1; Multiboot2
 * Specification 2.0, section 3.1). */
#include <string.h>

#include "hv/base/checked.h"
#include "hv/vm/lowmem.h"
#include "hv/vm/multiboot.h"
#include "proto/wire.h"

#define MB1_MAGIC 0x1badb002u
#define MB1_SEARCH 8192u
#define MB1_MUST_KNOW 0xfffcu /* flags of which this loader knows nothing: bits 2 to 15 */
#define MB1_VIDEO 0x4u
#define MB1_ADDRESSES 0x10000u
#define MB1_BOOTED 0x2badb002u

#define MB2_MAGIC 0xe85250d6u
#define MB2_SEARCH 32768u
#define MB2_HEADER 16
#define MB2_BOOTED 0x36d76289u
#define MB2_OPTIONAL 1u
enum { TAG_END, TAG_REQUEST, TAG_ADDRESS, TAG_ENTRY, TAG_CONSOLE, TAG_FRAMEBUFFER, TAG_ALIGN, TAG_EFI_BS };
#define TAG_RELOCATABLE 10

static bool find1(const struct fy_boot_images *im, struct fy_multiboot *mb)
{
    size_t end = FY_MIN(im->kernel_len, (size_t)MB1_SEARCH);
    for (size_t at = 0; at + 12 <= end; at += 4) {
        const uint8_t *p = im->kernel + at;
        if (fy_get32(p) == MB1_MAGIC && fy_get32(p) + fy_get32(p + 4) + fy_get32(p + 8) == 0) {
            *mb = (struct fy_multiboot){.version = 1, .at = at, .len = end - at};
            return true;
        }
    }
    return false;
}

static bool find2(const struct fy_boot_images *im, struct fy_multiboot *mb)
{
    size_t end = FY_MIN(im->kernel_len, (size_t)MB2_SEARCH);
    for (size_t at = 0; at + MB2_HEADER <= end; at += 8) {
        const uint8_t *p = im->kernel + at;
        uint32_t len = fy_get32(p + 8);
        if (fy_get32(p) == MB2_MAGIC && fy_get32(p) + fy_get32(p + 4) + len + fy_get32(p + 12) == 0 &&
            len >= MB2_HEADER && fy_range_ok(at, len, end)) {
            *mb = (struct fy_multiboot){.version = 2, .at = at, .len = len};
            return true;
        }
    }
    return false;
}

/* The newer of two headers. */
static bool find(const struct fy_boot_images *im, struct fy_multiboot *mb)
{
    return find2(im, mb) || find1(im, mb);
}

bool fy_is_multiboot(const struct fy_boot_images *images)
{
    struct fy_multiboot mb;
    return find(images, &mb);
}

static void take_addresses(struct fy_multiboot *mb, const uint8_t *p)
{
    mb->addresses = true;
    mb->header_addr = fy_get32(p);
    mb->load_addr = fy_get32(p + 4);
    mb->load_end = fy_get32(p + 8);
    mb->bss_end = fy_get32(p + 12);
}

static int parse1(const struct fy_boot_images *im, struct fy_multiboot *mb, struct fy_err *e)
{
    const uint8_t *p = im->kernel + mb->at;
    uint32_t flags = fy_get32(p + 4);
    /* A wish for a video mode may be ignored; the information then has no video part. */
    if (flags & MB1_MUST_KNOW & ~MB1_VIDEO)
        return fy_fail(e, FY_EUNSUPPORTED,
                       "Multiboot: the image needs features %#x, which are not known here",
                       flags & MB1_MUST_KNOW);
    if (!(flags & MB1_ADDRESSES))
        return 0;
    if (mb->len < 32)
        return fy_fail(e, FY_ECORRUPT, "Multiboot: the header at %zu is cut off", mb->at);
    take_addresses(mb, p + 12);
    mb->entry = fy_get32(p + 28);
    mb->has_entry = true;
    return 0;
}

static int tag2(struct fy_multiboot *mb, unsigned type, bool optional, const uint8_t *p, uint32_t size,
                struct fy_err *e)
{
    switch (type) {
    case TAG_REQUEST: /* what is asked for is there, or is what no machine without a display has */
    case TAG_CONSOLE:
    case TAG_ALIGN:
    case TAG_EFI_BS:
    case TAG_RELOCATABLE: /* its preferred place is never refused here */
        return 0;
    case TAG_ADDRESS:
        if (size < 24)
            break;
        take_addresses(mb, p + 8);
        return 0;
    case TAG_ENTRY:
        if (size < 12)
            break;
        mb->entry = fy_get32(p + 8);
        mb->has_entry = true;
        return 0;
    default:
        return optional || type == TAG_FRAMEBUFFER || type == 8 || type == 9 /* entries for EFI */
                   ? 0
                   : fy_fail(e, FY_EUNSUPPORTED,
                             "Multiboot2: the image needs what tag %u says, which is not known here", type);
    }
    return fy_fail(e, FY_ECORRUPT, "Multiboot2: header tag %u of %u bytes", type, size);
}

static int parse2(const struct fy_boot_images *im, struct fy_multiboot *mb, struct fy_err *e)
{
    const uint8_t *p = im->kernel + mb->at;
    if (fy_get32(p + 4) != 0)
        return fy_fail(e, FY_EUNSUPPORTED, "Multiboot2: architecture %u is not x86", fy_get32(p + 4));
    for (size_t at = MB2_HEADER; fy_range_ok(at, 8, mb->len);) {
        unsigned type = fy_get16(p + at);
        uint32_t size = fy_get32(p + at + 4);
        if (type == TAG_END)
            return 0;
        if (size < 8 || !fy_range_ok(at, size, mb->len))
            return fy_fail(e, FY_ECORRUPT, "Multiboot2: header tag %u of %u bytes", type, size);
        if (tag2(mb, type, fy_get16(p + at + 2) & MB2_OPTIONAL, p + at, size, e) < 0)
            return -1;
        at += FY_ALIGN_UP((size_t)size, 8);
    }
    return 0;
}

/* Load as the header's addresses say: from the file's place of load_addr to load_end (0: its end), zeros to
 * bss_end (0: none). */
static int load_addresses(struct fy_gmem *m, const struct fy_boot_images *im, const struct fy_multiboot *mb,
                          struct fy_loaded *l, struct fy_err *e)
{
    uint32_t before = mb->header_addr - mb->load_addr;
    if (mb->load_addr > mb->header_addr || before > mb->at)
        return fy_fail(e, FY_ECORRUPT, "Multiboot: load address %#x with the header at %#x", mb->load_addr,
                       mb->header_addr);
    size_t from = mb->at - before;
    uint64_t len = mb->load_end ? (uint64_t)mb->load_end - mb->load_addr : im->kernel_len - from;
    uint64_t memory = FY_MAX(len, mb->bss_end ? (uint64_t)mb->bss_end - mb->load_addr : 0);
    if ((mb->load_end && mb->load_end < mb->load_addr) || (mb->bss_end && mb->bss_end < mb->load_addr) ||
        !fy_range_ok(from, len, im->kernel_len) || !len)
        return fy_fail(e, FY_ECORRUPT, "Multiboot: addresses %#x to %#x do not fit the file's %zu bytes",
                       mb->load_addr, mb->load_end, im->kernel_len);
    if (fy_load_part(m, l, mb->load_addr, im->kernel + from, len, memory, e) < 0)
        return fy_fail_prefix(e, "Multiboot");
    l->entry = mb->load_addr;
    return 0;
}

static bool inside(const struct fy_loaded *l, uint64_t at)
{
    for (unsigned i = 0; i < l->count; i++)
        if (at >= l->ranges[i].base && at - l->ranges[i].base < l->ranges[i].bytes)
            return true;
    return false;
}

static int load_image(struct fy_gmem *m, const struct fy_boot_images *im, const struct fy_multiboot *mb,
                      struct fy_loaded *l, struct fy_err *e)
{
    if (!mb->addresses && !fy_is_elf(im))
        return fy_fail(e, FY_ECORRUPT,
                       "Multiboot: no ELF file, and the header does not say where to load it");
    if ((mb->addresses ? load_addresses(m, im, mb, l, e) : fy_load_elf_segments(m, im, l, e)) < 0)
        return -1;
    if (mb->has_entry)
        l->entry = mb->entry;
    if (!inside(l, l->entry) || l->entry > UINT32_MAX)
        return fy_fail(e, FY_ECORRUPT, "Multiboot: the entry %#llx lies outside of the image",
                       (unsigned long long)l->entry);
    return 0;
}

int fy_load_multiboot(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                      struct fy_err *e)
{
    struct fy_multiboot mb;
    struct fy_loaded l = {.end = FY_LOW_END};
    uint64_t module, info;
    if (!find(images, &mb))
        return fy_fail(e, FY_EUNSUPPORTED, "no Multiboot header");
    if ((mb.version == 1 ? parse1(images, &mb, e) : parse2(images, &mb, e)) < 0 ||
        load_image(m, images, &mb, &l, e) < 0)
        return -1;
    uint64_t room = FY_ALIGN_UP(l.end, FY_PAGE_SIZE) + FY_LOW_CMDLINE_MAX + FY_PAGE_SIZE;
    if (fy_load_initrd(m, images, room, FY_HOLE_START, &module, e) < 0 ||
        fy_multiboot_info(m, images, mb.version, &l, module, &info, e) < 0)
        return -1;
    *boot = (struct fy_boot){
        .rip = l.entry, .rax = mb.version == 1 ? MB1_BOOTED : MB2_BOOTED, .rbx = info, .rsp = FY_LOW_STACK};
    return 0;
}
