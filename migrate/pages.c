// SPDX-License-Identifier: Apache-2.0
#include "migrate/pages.h"

#include <emmintrin.h>
#include <inttypes.h>

#include "hv/base/checked.h"

bool fy_page_is_zero(const void *page)
{
    const __m128i *p = page;
    const char *ahead = (const char *)page + FY_PAGE_SIZE;
    /* 256 bytes a step: the first tells most pages apart. The processor's own prefetching ends with the page;
     * zero pages come in runs, so the next one is asked for here. A prefetch beyond a mapping does nothing.
     */
    for (size_t i = 0; i < FY_PAGE_SIZE / 16; i += 16) {
        __m128i any = _mm_loadu_si128(&p[i]);
        for (size_t k = 0; k < 256; k += 64)
            __builtin_prefetch(ahead + i * 16 + k, 0, 3);
        for (size_t k = 1; k < 16; k++)
            any = _mm_or_si128(any, _mm_loadu_si128(&p[i + k]));
        if (_mm_movemask_epi8(_mm_cmpeq_epi8(any, _mm_setzero_si128())) != 0xffff)
            return false;
    }
    return true;
}

void fy_pages_write(uint8_t *body, enum fy_codec codec, const struct fy_run *runs, unsigned count)
{
    uint32_t pages = 0;
    for (unsigned i = 0; i < count; i++) {
        uint8_t *p = body + FY_PAGES_HEADER + (size_t)i * FY_PAGES_RUN;
        fy_put64(p, runs[i].first);
        fy_put32(p + 8, runs[i].count);
        fy_put32(p + 12, 0);
        pages += runs[i].count;
    }
    fy_put16(body, (uint16_t)codec);
    fy_put16(body + 2, (uint16_t)count);
    fy_put32(body + 4, pages * FY_PAGE_SIZE);
}

static int parse_runs(const uint8_t *body, uint64_t total_pages, struct fy_pages *out, struct fy_err *e)
{
    uint64_t pages = 0;
    for (unsigned i = 0; i < out->run_count; i++) {
        const uint8_t *p = body + FY_PAGES_HEADER + (size_t)i * FY_PAGES_RUN;
        struct fy_run *r = &out->runs[i];
        r->first = fy_get64(p);
        r->count = fy_get32(p + 8);
        if (!r->count || fy_get32(p + 12) || !fy_range_ok(r->first, r->count, total_pages))
            return fy_fail(e, FY_ECORRUPT,
                           "run of %u pages at page %" PRIu64 " lies outside of the guest's %" PRIu64
                           " pages",
                           r->count, r->first, total_pages);
        pages += r->count;
    }
    if (pages > FY_PAGES_MAX || pages * FY_PAGE_SIZE != out->raw_len)
        return fy_fail(e, FY_ECORRUPT, "a batch names %" PRIu64 " pages but claims %u bytes", pages,
                       out->raw_len);
    return 0;
}

int fy_pages_parse(const uint8_t *body, size_t len, uint64_t total_pages, struct fy_pages *out,
                   struct fy_err *e)
{
    if (len < FY_PAGES_HEADER)
        return fy_fail(e, FY_ECORRUPT, "a batch of pages has only %zu bytes", len);
    unsigned codec = fy_get16(body);
    out->run_count = fy_get16(body + 2);
    out->raw_len = fy_get32(body + 4);
    if (codec > FY_CODEC_ZSTD)
        return fy_fail(e, FY_ECORRUPT, "a batch of pages names codec %u, which does not exist", codec);
    out->codec = (enum fy_codec)codec;
    if (!out->run_count || out->run_count > FY_PAGES_RUNS_MAX || len < fy_pages_prefix(out->run_count))
        return fy_fail(e, FY_ECORRUPT, "a batch of %zu bytes cannot hold %u runs", len, out->run_count);
    if (parse_runs(body, total_pages, out, e) < 0)
        return -1;
    out->packed = body + fy_pages_prefix(out->run_count);
    out->packed_len = len - fy_pages_prefix(out->run_count);
    if (out->codec == FY_CODEC_NONE && out->packed_len != out->raw_len)
        return fy_fail(e, FY_ECORRUPT, "a raw batch of %u bytes carries %zu", out->raw_len, out->packed_len);
    return 0;
}

int fy_zero_count(size_t len, unsigned *count, struct fy_err *e)
{
    if (!len || len % FY_PAGES_RUN || len / FY_PAGES_RUN > FY_ZERO_RUNS_MAX)
        return fy_fail(e, FY_ECORRUPT, "a record of zero pages has %zu bytes", len);
    *count = (unsigned)(len / FY_PAGES_RUN);
    return 0;
}

void fy_zero_write(uint8_t *body, unsigned index, uint64_t first, uint64_t count)
{
    fy_put64(body + (size_t)index * FY_PAGES_RUN, first);
    fy_put64(body + (size_t)index * FY_PAGES_RUN + 8, count);
}

int fy_zero_parse(const uint8_t *body, unsigned index, uint64_t total_pages, uint64_t *first, uint64_t *count,
                  struct fy_err *e)
{
    *first = fy_get64(body + (size_t)index * FY_PAGES_RUN);
    *count = fy_get64(body + (size_t)index * FY_PAGES_RUN + 8);
    if (!*count || !fy_range_ok(*first, *count, total_pages))
        return fy_fail(e, FY_ECORRUPT,
                       "%" PRIu64 " zero pages at page %" PRIu64 " lie outside of the guest's %" PRIu64
                       " pages",
                       *count, *first, total_pages);
    return 0;
}
