// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_MEM_DIGEST_H
#define FERRY_MEM_DIGEST_H

#include "hv/mem/guest.h"

/* A digest of all guest memory, by which two runs of a guest are compared: over the pages that are not all
 * zeros, the sum of a mix of page number and CRC-32C (so holes and pages of zeros are alike, and holes are
 * not filled). 64 bits, no protection against forgers. The guest stands. Any thread. -1 where the memfd
 * cannot be searched. */
int fy_gmem_digest(const struct fy_gmem *m, uint64_t *out, struct fy_err *e);

#endif
