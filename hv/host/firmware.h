// SPDX-License-Identifier: Apache-2.0
/* Firmware images of this host, and the files in which guests' firmware keeps its variables. */
#ifndef FERRY_HOST_FIRMWARE_H
#define FERRY_HOST_FIRMWARE_H

#include <stdbool.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/machine.pb-c.h"

struct fyd;

/* Whether it is a name and no file. Pure. */
bool fyd_firmware_known(const char *name);

/* Open the image that `name` stands for ("bios", "uefi") or, with file_fd >= 0, take that file (owned, also
 * on failure), and fill *out, whose kind is a constant. Returns the descriptor, or -1: FY_EUSAGE, or
 * FY_ENOTFOUND naming the package that has it. */
int fyd_firmware_open(const char *name, int file_fd, Ferry__Firmware *out, struct fy_err *e);

/* The file of the variables of the guest of that name, made from the host's template where there is none (or
 * empty, for an incoming guest, which brings its own). -1 with the cause. */
int fyd_nvram_open(struct fyd *d, const Ferry__Machine *m, bool incoming, struct fy_err *e);

/* How long a guest's boot images are, for its description. False where they are no files with something in
 * them, or too large to be kept: its hypervisor then says so, or boots from them at this host only. */
bool fyd_images_measure(int kernel_fd, int initrd_fd, Ferry__BootImages *out);

/* Bytes of guest memory's file: RAM, firmware and boot images. 0 where the description is impossible. */
uint64_t fyd_memory_file_bytes(const Ferry__Machine *m);

#endif
