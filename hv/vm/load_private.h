// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: the loaders behind fy_load_kernel, and what they share. */
#ifndef FERRY_VM_LOAD_PRIVATE_H
#define FERRY_VM_LOAD_PRIVATE_H

#include "hv/vm/load.h"

bool fy_is_elf(const struct fy_boot_images *images);
bool fy_is_bzimage(const struct fy_boot_images *images);

/* As fy_load_kernel, for one format each. */
int fy_load_elf(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                struct fy_err *e);
int fy_load_bzimage(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                    struct fy_err *e);

/* Multiboot 1 or 2: has the image a header of either (in its first 32 KiB, checksum right)? */
bool fy_is_multiboot(const struct fy_boot_images *images);
int fy_load_multiboot(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_boot *boot,
                      struct fy_err *e);

/* Whether an ELF image has a PVH entry; false where it does not parse. */
bool fy_elf_has_pvh(const struct fy_boot_images *images);

/* What a loader has put into memory. */
#define FY_LOADED_MAX 64
struct fy_loaded {
    struct {
        uint64_t base, bytes;
    } ranges[FY_LOADED_MAX];
    unsigned count;
    uint64_t entry;
    uint64_t end; /* behind the image, below the hole; at least 1 MiB */
};
/* Zero-filled copy of an image's part to RAM: from one page on in low memory, or from 1 MiB on. */
int fy_load_part(struct fy_gmem *m, struct fy_loaded *l, uint64_t at, const uint8_t *bytes, uint64_t len,
                 uint64_t memory, struct fy_err *e);
/* The segments of an ELF image and its own entry, as a physical address. */
int fy_load_elf_segments(struct fy_gmem *m, const struct fy_boot_images *images, struct fy_loaded *l,
                         struct fy_err *e);

/* Copy the command line with its NUL to FY_LOW_CMDLINE; at most `limit` characters. */
int fy_load_cmdline(struct fy_gmem *m, const char *cmdline, size_t limit, struct fy_err *e);

/* Copy the initrd to the highest page-aligned place in [from, below) of the RAM under the hole. *at is 0
 * where there is none. */
int fy_load_initrd(struct fy_gmem *m, const struct fy_boot_images *images, uint64_t from, uint64_t below,
                   uint64_t *at, struct fy_err *e);

/* First byte behind the RAM below the hole. */
uint64_t fy_low_ram_end(const struct fy_gmem *m);

#endif
