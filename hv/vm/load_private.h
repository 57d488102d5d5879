// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: the two loaders behind fy_load_kernel, and what they share. */
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

/* Copy the command line with its NUL to FY_LOW_CMDLINE; at most `limit` characters. */
int fy_load_cmdline(struct fy_gmem *m, const char *cmdline, size_t limit, struct fy_err *e);

/* Copy the initrd to the highest page-aligned place in [from, below) of the RAM under the hole. *at is 0
 * where there is none. */
int fy_load_initrd(struct fy_gmem *m, const struct fy_boot_images *images, uint64_t from, uint64_t below,
                   uint64_t *at, struct fy_err *e);

/* First byte behind the RAM below the hole. */
uint64_t fy_low_ram_end(const struct fy_gmem *m);

#endif
