// SPDX-License-Identifier: Apache-2.0
/* Private to hv/vm: the kernel and initrd of a guest, kept with its memory, so that it can boot again at any
 * host; or, where its description has no room for them, as the files that it was started with. */
#ifndef FERRY_VM_IMAGES_H
#define FERRY_VM_IMAGES_H

#include "hv/vm/internal.h"

/* Add to `why` what is impossible in a description's boot images; it has some. */
void fy_images_check(const Ferry__Machine *d, struct fy_err *why);
/* Bytes of their area. Of a description that has passed the check, or has none. */
uint64_t fy_images_area(const Ferry__Machine *d);
/* Copy kernel and initrd of a fresh machine from its files to the area, and close the files. */
int fy_images_keep(struct fy_machine *m, struct fy_err *e);

struct fy_images {
    const uint8_t *kernel, *initrd; /* NULL: none */
    size_t kernel_len, initrd_len;
    bool kept; /* in the area */
};
/* For one boot. The kernel's bytes change for nobody until fy_images_close, which is also called after a
 * failure: its loader checks them where it reads them. The initrd's may, and are only copied. */
int fy_images_open(struct fy_machine *m, struct fy_images *im, struct fy_err *e);
void fy_images_close(struct fy_images *im);

#endif
