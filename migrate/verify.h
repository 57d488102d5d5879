// SPDX-License-Identifier: Apache-2.0
#ifndef FERRY_MIGRATE_VERIFY_H
#define FERRY_MIGRATE_VERIFY_H

#include <stdint.h>

#include "hv/base/err.h"

/* A digest of all guest memory, equal for equal contents whether a zero page is a hole or not: FNV-1a 64 over
 * the CRC-32C of each 1 MiB block in order. `threads` share the work. Holes are not filled. The guest must be
 * paused. */
int fy_memory_digest(int mem_fd, uint64_t pages, unsigned threads, uint64_t *digest, struct fy_err *e);

#endif
