// SPDX-License-Identifier: Apache-2.0
/* A peer's records: the input is one direction of a channel, header by header. The checksum and the sequence
 * number are put right first, or nothing behind them would ever be reached; the originals are tried too. */
#include <stdlib.h>
#include <string.h>

#include "hv/base/crc32c.h"
#include "migrate/codec.h"
#include "migrate/pages.h"
#include "migrate/stream.h"
#include "proto/stream.pb-c.h"
#include "tests/fuzz/fuzz.h"

#define PAGES 1024u

static struct fy_packer *packer;
static uint8_t raw[FY_PAGES_MAX * 4096];

static void unpack(const uint8_t *body, size_t len)
{
    struct fy_err e = {0};
    struct fy_pages p;
    if (fy_pages_parse(body, len, PAGES, &p, &e) < 0) {
        MUST(e.code == FY_ECORRUPT && e.text[0]);
        return;
    }
    uint64_t pages = 0;
    for (unsigned i = 0; i < p.run_count; i++) {
        MUST(p.runs[i].count && p.runs[i].first < PAGES && p.runs[i].count <= PAGES - p.runs[i].first);
        pages += p.runs[i].count;
    }
    MUST(pages <= FY_PAGES_MAX && pages * 4096 == p.raw_len);
    MUST(p.packed >= body && p.packed + p.packed_len == body + len);
    if (p.codec == FY_CODEC_LZ4)
        fy_lz4_unpack(p.packed, p.packed_len, raw, p.raw_len);
    else if (p.codec == FY_CODEC_ZSTD)
        fy_zstd_unpack(packer, p.packed, p.packed_len, raw, p.raw_len);
}

static void zeros(const uint8_t *body, size_t len)
{
    struct fy_err e = {0};
    unsigned count;
    if (fy_zero_count(len, &count, &e) < 0)
        return;
    for (unsigned i = 0; i < count; i++) {
        uint64_t first;
        uint64_t n;
        if (fy_zero_parse(body, i, PAGES, &first, &n, &e) == 0)
            MUST(n && first < PAGES && n <= PAGES - first);
    }
}

#define TRY(prefix, body, len)                                                                               \
    do {                                                                                                     \
        void *m_ = prefix##__unpack(NULL, len, body);                                                        \
        if (m_)                                                                                              \
            prefix##__free_unpacked(m_, NULL);                                                               \
    } while (0)

static void structured(uint16_t type, const uint8_t *body, size_t len)
{
    switch (type) {
    case FY_REC_HELLO:
        TRY(ferry__stream_hello, body, len);
        break;
    case FY_REC_HELLO_REPLY:
        TRY(ferry__stream_hello_reply, body, len);
        break;
    case FY_REC_DESCRIPTION:
        TRY(ferry__stream_description, body, len);
        break;
    case FY_REC_VERDICT:
        TRY(ferry__stream_verdict, body, len);
        break;
    case FY_REC_STATE_END:
        TRY(ferry__stream_state_end, body, len);
        break;
    case FY_REC_READY:
        TRY(ferry__stream_ready, body, len);
        break;
    case FY_REC_ERROR:
        TRY(ferry__stream_error, body, len);
        break;
    case FY_REC_PAIR:
        TRY(ferry__pair_request, body, len);
        break;
    case FY_REC_CONSOLE_OPEN:
        TRY(ferry__console_open, body, len);
        break;
    case FY_REC_CONSOLE_OPENED:
        TRY(ferry__console_opened, body, len);
        break;
    default:
        break;
    }
}

/* Put checksum and sequence right, so that the parsers behind them see the bytes. */
static void mend(const struct fy_flow *flow, uint8_t *header, const uint8_t *body, uint32_t length)
{
    fy_put32(header + 8, 0);
    fy_put32(header + 12, flow->generation);
    fy_put64(header + 16, flow->records);
    fy_put32(header + 8, fy_crc32c(fy_crc32c(0, header, FY_RECORD_HEADER), body, length));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fy_err e = {0};
    struct fy_flow flow = {0};
    if (!packer)
        packer = fy_packer_new(&e);
    MUST(packer);
    while (size >= FY_RECORD_HEADER) {
        struct fy_record_header h;
        uint8_t header[FY_RECORD_HEADER];
        memcpy(header, data, sizeof header);
        if (fy_record_parse(&flow, header, &h, &e) < 0)
            MUST(e.code == FY_ECORRUPT && e.text[0]);
        uint32_t length = fy_get32(header + 4);
        if (length > size - FY_RECORD_HEADER)
            length = (uint32_t)(size - FY_RECORD_HEADER);
        const uint8_t *body = data + FY_RECORD_HEADER;
        fy_put32(header + 4, length);
        mend(&flow, header, body, length);
        if (fy_record_parse(&flow, header, &h, &e) == 0) {
            MUST(fy_record_check(&flow, header, body, &h, &e) == 0);
            if (h.type == FY_REC_PAGES)
                unpack(body, length);
            else if (h.type == FY_REC_ZERO)
                zeros(body, length);
            else
                structured(h.type, body, length);
        }
        data += FY_RECORD_HEADER + length;
        size -= FY_RECORD_HEADER + length;
    }
    return 0;
}
