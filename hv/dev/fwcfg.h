// SPDX-License-Identifier: Apache-2.0
/* fw_cfg: what firmware is told of its machine, as numbered items and named files, by port or by DMA. Source:
 * QEMU's published interface, docs/specs/fw_cfg.rst; it is the one that SeaBIOS, OVMF and Linux have drivers
 * for. */
#ifndef FERRY_DEV_FWCFG_H
#define FERRY_DEV_FWCFG_H

#include "hv/dev/device.h"
#include "hv/mem/guest.h"

struct fy_fwcfg;

#define FY_FWCFG_NB_CPUS 0x05
#define FY_FWCFG_BOOT_MENU 0x0e
#define FY_FWCFG_MAX_CPUS 0x0f
#define FY_FWCFG_KERNEL_ADDR 0x07
#define FY_FWCFG_KERNEL_SIZE 0x08
#define FY_FWCFG_INITRD_ADDR 0x0a
#define FY_FWCFG_INITRD_SIZE 0x0b
#define FY_FWCFG_KERNEL_DATA 0x11
#define FY_FWCFG_INITRD_DATA 0x12
#define FY_FWCFG_CMDLINE_ADDR 0x13
#define FY_FWCFG_CMDLINE_SIZE 0x14
#define FY_FWCFG_CMDLINE_DATA 0x15
#define FY_FWCFG_SETUP_ADDR 0x16
#define FY_FWCFG_SETUP_SIZE 0x17
#define FY_FWCFG_SETUP_DATA 0x18

/* Claims ports 0x510, 0x511 and 0x514..0x51b. gmem: for DMA; outlives the device. out: device "fwcfg", whose
 * state is where the guest stands in an item; the items are made anew on each host from the machine's
 * description. */
int fy_fwcfg_new(struct fy_bus *bus, const struct fy_dev_host *host, struct fy_gmem *gmem,
                 struct fy_device *out, struct fy_err *e);
/* Set an item; bytes are copied, a later one replaces an earlier one. While vCPUs are parked. */
int fy_fwcfg_set(struct fy_device *fwcfg, uint16_t key, const void *bytes, size_t len, struct fy_err *e);
/* The same with bytes that the caller keeps valid for the device's life. */
int fy_fwcfg_borrow(struct fy_device *fwcfg, uint16_t key, const void *bytes, size_t len, struct fy_err *e);
/* Set a file (name of at most 55 characters), listed in the order of the calls. While vCPUs are parked. */
int fy_fwcfg_set_file(struct fy_device *fwcfg, const char *name, const void *bytes, size_t len,
                      struct fy_err *e);

#endif
