// SPDX-License-Identifier: Apache-2.0
/* The bodies of PAGES, ZERO and BARRIER records (proto/wire.h, docs/spec/stream.md). Pure. */
#ifndef FERRY_MIGRATE_PAGES_H
#define FERRY_MIGRATE_PAGES_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/wire.h"

struct fy_run {
    uint64_t first; /* memfd page */
    uint32_t count;
};

struct fy_pages {
    enum fy_codec codec;
    unsigned run_count;
    struct fy_run runs[FY_PAGES_RUNS_MAX];
    uint32_t raw_len; /* pages * 4096 */
    const uint8_t *packed;
    size_t packed_len;
};

/* True when all 4096 bytes (8-byte aligned) are zero. */
bool fy_page_is_zero(const void *page);

/* Length of the fixed part of a PAGES body with that many runs. */
static inline size_t fy_pages_prefix(unsigned runs)
{
    return FY_PAGES_HEADER + (size_t)runs * FY_PAGES_RUN;
}

/* Write the fixed part; the packed bytes follow it. */
void fy_pages_write(uint8_t *body, enum fy_codec codec, const struct fy_run *runs, unsigned count);

/* Parse and check a body of a peer against a memory of total_pages. `packed` points into body. */
int fy_pages_parse(const uint8_t *body, size_t len, uint64_t total_pages, struct fy_pages *out,
                   struct fy_err *e);

/* A ZERO body holds count = len / 16 runs; fetch and check one. */
int fy_zero_count(size_t len, unsigned *count, struct fy_err *e);
void fy_zero_write(uint8_t *body, unsigned index, uint64_t first, uint64_t count);
int fy_zero_parse(const uint8_t *body, unsigned index, uint64_t total_pages, uint64_t *first, uint64_t *count,
                  struct fy_err *e);

#endif
