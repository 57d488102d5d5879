// SPDX-License-Identifier: Apache-2.0
/* NOR flash of the Intel command set (JEDEC CFI, JESD68.01; Intel Application Note 646), 8 bits wide, erased
 * in blocks of 4 KiB: where UEFI firmware keeps its variables. The contents lie in the firmware area of guest
 * memory and travel with it; a file of the host's keeps them from one start to the next. */
#ifndef FERRY_DEV_FLASH_H
#define FERRY_DEV_FLASH_H

#include "hv/dev/device.h"
#include "hv/mem/guest.h"

#define FY_FLASH_BLOCK 4096u

/* The flash is [at, at + bytes) of the firmware area, seen at its place below 4 GiB; every access comes here.
 * file: a descriptor to write changes to (the caller's; -1: none). out: device "nvram". gmem outlives it. */
int fy_flash_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_gmem *gmem, uint64_t at,
                 uint64_t bytes, int file, struct fy_device *out, struct fy_err *e);
/* Fill it from the file, of exactly its size, before a fresh machine's first run. */
int fy_flash_read_file(struct fy_device *flash, struct fy_err *e);

#endif
