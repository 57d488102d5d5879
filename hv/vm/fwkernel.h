// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: a Linux kernel handed to firmware by fw_cfg. UEFI firmware reads the items by itself and
 * starts the kernel's EFI stub; for a BIOS they include an option ROM that enters the kernel's 16-bit setup
 * code. */
#ifndef FERRY_VM_FWKERNEL_H
#define FERRY_VM_FWKERNEL_H

#include "hv/vm/internal.h"

/* Set the items from the machine's boot images and command line. FY_EUNSUPPORTED, FY_ECORRUPT or FY_ERESOURCE
 * for a kernel that cannot be started so; the items are then not complete. vCPUs parked. */
int fy_fwkernel_set(struct fy_machine *m, struct fy_err *e);

/* The option ROM: bytes in a multiple of 512, sums made good, in `out` (FY_FWKERNEL_ROM_BYTES). Pure. */
#define FY_FWKERNEL_ROM_BYTES 1024
void fy_fwkernel_rom(uint8_t out[FY_FWKERNEL_ROM_BYTES]);

#endif
