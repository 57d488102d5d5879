// SPDX-License-Identifier: Apache-2.0
#include "migrate/stream.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "hv/base/crc32c.h"

#define FNV_OFFSET 0xcbf29ce484222325ull
#define FNV_PRIME 0x100000001b3ull

static void count_record(struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER])
{
    uint64_t d = flow->records ? flow->digest : FNV_OFFSET;
    for (int i = 0; i < FY_RECORD_HEADER; i++)
        d = (d ^ raw[i]) * FNV_PRIME;
    flow->digest = d;
    flow->records++;
}

/* Of the header with its CRC field taken as zero; the body's goes on from it. */
static uint32_t header_crc(const uint8_t raw[FY_RECORD_HEADER])
{
    uint8_t h[FY_RECORD_HEADER];
    memcpy(h, raw, sizeof h);
    fy_put32(h + 8, 0);
    return fy_crc32c(0, h, sizeof h);
}

static void seal(struct fy_flow *flow, uint16_t type, uint16_t flags, uint8_t *body, uint32_t covered,
                 uint32_t length)
{
    uint8_t *raw = body - FY_RECORD_HEADER;
    memset(raw, 0, FY_RECORD_HEADER);
    fy_put16(raw, type);
    fy_put16(raw + 2, flags);
    fy_put32(raw + 4, length);
    fy_put32(raw + 12, flow->generation);
    fy_put64(raw + 16, flow->records);
    fy_put32(raw + 8, fy_crc32c(header_crc(raw), body, covered));
    count_record(flow, raw);
}

void fy_record_seal(struct fy_flow *flow, uint16_t type, uint16_t flags, uint8_t *body, uint32_t length)
{
    seal(flow, type, flags, body, length, length);
}

void fy_record_seal_fixed(struct fy_flow *flow, uint16_t type, uint8_t *body, uint32_t fixed, uint32_t length)
{
    seal(flow, type, FY_RECORD_SEALED, body, fixed, length);
}

int fy_record_parse(const struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER],
                    struct fy_record_header *h, struct fy_err *e)
{
    h->type = fy_get16(raw);
    h->flags = fy_get16(raw + 2);
    h->length = fy_get32(raw + 4);
    h->crc = fy_get32(raw + 8);
    h->generation = fy_get32(raw + 12);
    h->sequence = fy_get64(raw + 16);
    if (h->length > FY_RECORD_BODY_MAX)
        return fy_fail(e, FY_ECORRUPT, "record %" PRIu64 " claims %u bytes; at most %u are allowed",
                       flow->records, h->length, FY_RECORD_BODY_MAX);
    if (h->flags & ~(FY_RECORD_OPTIONAL | FY_RECORD_SEALED) || fy_get64(raw + 24) ||
        (h->flags & FY_RECORD_SEALED && h->type != FY_REC_PAGES))
        return fy_fail(e, FY_ECORRUPT, "record %" PRIu64 " (type %u) has reserved bits set", flow->records,
                       h->type);
    if (h->sequence != flow->records)
        return fy_fail(e, FY_ECORRUPT, "record %" PRIu64 " expected, number %" PRIu64 " came", flow->records,
                       h->sequence);
    if (h->generation != flow->generation)
        return fy_fail(e, FY_ECORRUPT, "record %" PRIu64 " is of generation %u, not %u", flow->records,
                       h->generation, flow->generation);
    return 0;
}

int fy_record_end(struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER], const struct fy_record_header *h,
                  uint32_t crc, struct fy_err *e)
{
    if (crc != h->crc)
        return fy_fail(e, FY_ECORRUPT, "record %" PRIu64 " (type %u, %u bytes) does not match its checksum",
                       h->sequence, h->type, h->length);
    count_record(flow, raw);
    return 0;
}

int fy_record_check(struct fy_flow *flow, const uint8_t raw[FY_RECORD_HEADER], const uint8_t *body,
                    const struct fy_record_header *h, struct fy_err *e)
{
    return fy_record_end(flow, raw, h, fy_crc32c(header_crc(raw), body, h->length), e);
}

int fy_record_begin(struct fy_chan *c, const struct fy_flow *flow, uint8_t raw[FY_RECORD_HEADER],
                    struct fy_record_header *h, uint32_t *crc, struct fy_err *e)
{
    if (fy_chan_read(c, raw, FY_RECORD_HEADER, e) < 0 || fy_record_parse(flow, raw, h, e) < 0)
        return -1;
    *crc = header_crc(raw);
    return 0;
}

int fy_record_piece(struct fy_chan *c, void *to, uint32_t len, uint32_t *crc, struct fy_err *e)
{
    if (fy_chan_read(c, to, len, e) < 0)
        return -1;
    if (crc)
        *crc = fy_crc32c(*crc, to, len);
    return 0;
}

bool fy_record_known(uint16_t type)
{
    return (type >= FY_REC_HELLO && type <= FY_REC_FRAMES) ||
           (type >= FY_REC_PAGES && type <= FY_REC_BARRIER) ||
           (type >= FY_REC_QUERY && type <= FY_REC_CONSOLE_BYTES);
}

int fy_record_read(struct fy_chan *c, struct fy_flow *flow, uint8_t *buf, struct fy_record_header *h,
                   struct fy_err *e)
{
    for (;;) {
        uint8_t raw[FY_RECORD_HEADER];
        uint32_t crc;
        if (fy_record_begin(c, flow, raw, h, &crc, e) < 0 ||
            fy_record_piece(c, buf, h->length, &crc, e) < 0 || fy_record_end(flow, raw, h, crc, e) < 0)
            return -1;
        if (fy_record_known(h->type))
            return 0;
        if (!(h->flags & FY_RECORD_OPTIONAL))
            return fy_fail(e, FY_ECORRUPT, "record type %u is unknown and may not be skipped (newer peer?)",
                           h->type);
    }
}

int fy_record_send(struct fy_chan *c, struct fy_flow *flow, uint16_t type, const void *buf, uint32_t len,
                   bool flush, struct fy_err *e)
{
    uint8_t *p = malloc(FY_RECORD_HEADER + (size_t)len);
    if (!p)
        return fy_fail(e, FY_ERESOURCE, "no memory for a record");
    if (len)
        memcpy(p + FY_RECORD_HEADER, buf, len);
    fy_record_seal(flow, type, 0, p + FY_RECORD_HEADER, len);
    int rc = fy_chan_write(c, p, FY_RECORD_HEADER + (size_t)len, e);
    free(p);
    if (rc == 0 && flush)
        rc = fy_chan_flush(c, e);
    return rc;
}

int fy_record_send_proto(struct fy_chan *c, struct fy_flow *flow, uint16_t type, const ProtobufCMessage *m,
                         struct fy_err *e)
{
    size_t len = protobuf_c_message_get_packed_size(m);
    if (len > FY_RECORD_PROTO_MAX)
        return fy_fail(e, FY_EFAIL, "a message of %zu bytes is too long for a record", len);
    uint8_t *p = malloc(len + 1);
    if (!p)
        return fy_fail(e, FY_ERESOURCE, "no memory for a record");
    protobuf_c_message_pack(m, p);
    int rc = fy_record_send(c, flow, type, p, (uint32_t)len, true, e);
    free(p);
    return rc;
}
