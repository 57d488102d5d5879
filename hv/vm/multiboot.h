// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: what an image asks for by its Multiboot header, and the information that it gets. */
#ifndef FERRY_VM_MULTIBOOT_H
#define FERRY_VM_MULTIBOOT_H

#include "hv/vm/load_private.h"

struct fy_multiboot {
    unsigned version; /* 1 or 2 */
    size_t at, len;   /* of the header in the file */
    bool addresses;   /* the header says where to load, not ELF */
    uint32_t header_addr, load_addr, load_end, bss_end;
    bool has_entry;
    uint32_t entry;
};

/* Write the information for an image that is loaded, the module last. *at: where it is. */
int fy_multiboot_info(struct fy_gmem *m, const struct fy_boot_images *images, unsigned version,
                      const struct fy_loaded *l, uint64_t module, uint64_t *at, struct fy_err *e);
/* At most so many bytes of it, with that command line. */
size_t fy_multiboot_info_bytes(const char *cmdline);
/* A place for `bytes` that the image leaves free: in low memory, else behind it. 0: none. */
uint64_t fy_multiboot_place(const struct fy_gmem *m, const struct fy_loaded *l, size_t bytes);

#endif
