// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: machines that boot firmware (docs/adr/0008-firmware.md). */
#ifndef FERRY_VM_FIRMWARE_H
#define FERRY_VM_FIRMWARE_H

#include "hv/vm/internal.h"

/* Add to `why` what is impossible in a description's firmware; it has some. */
void fy_firmware_check(const Ferry__Machine *d, struct fy_err *why);
/* Bytes of the memfd behind RAM. Of a description that has passed the check, or has none. */
uint64_t fy_firmware_area(const Ferry__Machine *d);
/* Make the ROM, before the engine. */
int fy_firmware_map(struct fy_machine *m, struct fy_err *e);
/* Add fw_cfg with its items, and the flash, to the devices. */
int fy_firmware_devices(struct fy_machine *m, struct fy_err *e);
/* Fill ROM and flash of a fresh machine from its files. */
int fy_firmware_load(struct fy_machine *m, int rom_fd, struct fy_err *e);
/* What chipset and processor do at power-on, for *boot: the ROM's end is also seen below 1 MiB. */
int fy_firmware_boot(struct fy_machine *m, struct fy_cpu_boot *boot, struct fy_err *e);

#endif
