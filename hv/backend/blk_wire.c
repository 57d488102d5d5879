// SPDX-License-Identifier: Apache-2.0
#include "hv/backend/blk_wire.h"

#include <string.h>

#include "hv/base/checked.h"

#define ERRNO_MAX 4095u

size_t fy_blkw_put_request(const struct fy_blkw_request *r, uint8_t *buf)
{
    memset(buf, 0, FY_BLKW_REQUEST);
    fy_put32(buf, r->id);
    fy_put16(buf + 4, (uint16_t)r->op);
    fy_put16(buf + 6, (uint16_t)r->flags);
    fy_put64(buf + 8, r->offset);
    fy_put64(buf + 16, r->bytes);
    fy_put32(buf + 24, r->segs);
    for (unsigned i = 0; i < r->segs; i++) {
        fy_put64(buf + FY_BLKW_REQUEST + (size_t)i * FY_BLKW_SEG, r->seg[i].at);
        fy_put64(buf + FY_BLKW_REQUEST + (size_t)i * FY_BLKW_SEG + 8, r->seg[i].len);
    }
    return FY_BLKW_REQUEST + (size_t)r->segs * FY_BLKW_SEG;
}

/* Flags and number of segments that an op may have. */
static bool shape_ok(const struct fy_blkw_request *r)
{
    switch (r->op) {
    case FY_BLKW_READ:
    case FY_BLKW_WRITE:
        return !r->flags && r->segs;
    case FY_BLKW_FLUSH:
        return !r->flags && !r->segs && !r->offset && !r->bytes;
    case FY_BLKW_DISCARD:
        return !r->flags && !r->segs;
    case FY_BLKW_ZEROES:
        return !(r->flags & ~FY_BLKW_F_UNMAP) && !r->segs;
    case FY_BLKW_OPEN:
        return !(r->flags & ~(FY_BLKW_F_READ_ONLY | FY_BLKW_F_KEEP)) && r->segs &&
               r->segs <= FY_BLKW_AREAS_MAX && !r->id && !r->offset;
    case FY_BLKW_CLOSE:
    case FY_BLKW_PARK:
        return !r->flags && !r->segs && !r->id && !r->offset && !r->bytes;
    }
    return false;
}

int fy_blkw_get_request(const uint8_t *buf, size_t len, struct fy_blkw_request *r, struct fy_err *e)
{
    if (len < FY_BLKW_REQUEST || len > FY_BLKW_REQUEST_MAX)
        return fy_fail(e, FY_ECORRUPT, "a disk request of %zu bytes", len);
    r->id = fy_get32(buf);
    r->op = (enum fy_blkw_op)fy_get16(buf + 4);
    r->flags = fy_get16(buf + 6);
    r->offset = fy_get64(buf + 8);
    r->bytes = fy_get64(buf + 16);
    r->segs = fy_get32(buf + 24);
    if (r->id >= FY_BLKW_IDS || r->segs > FY_BLKW_SEGS_MAX || fy_get32(buf + 28) ||
        len != FY_BLKW_REQUEST + (size_t)r->segs * FY_BLKW_SEG || !shape_ok(r))
        return fy_fail(e, FY_ECORRUPT, "disk request %u, %u, flags %x, %u segments in %zu bytes", r->id,
                       (unsigned)r->op, r->flags, r->segs, len);
    for (unsigned i = 0; i < r->segs; i++) {
        r->seg[i].at = fy_get64(buf + FY_BLKW_REQUEST + (size_t)i * FY_BLKW_SEG);
        r->seg[i].len = fy_get64(buf + FY_BLKW_REQUEST + (size_t)i * FY_BLKW_SEG + 8);
    }
    return 0;
}

static bool in_an_area(const struct fy_blkw_seg *s, const struct fy_blkw_seg *areas, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (s->at >= areas[i].at && fy_range_ok(s->at - areas[i].at, s->len, areas[i].len))
            return s->len != 0;
    return false;
}

int fy_blkw_check(const struct fy_blkw_request *r, uint64_t disk_bytes, const struct fy_blkw_seg *areas,
                  unsigned area_count, struct fy_err *e)
{
    if (r->op == FY_BLKW_FLUSH)
        return 0;
    if (!r->bytes || r->bytes % FY_BLKW_SECTOR || r->offset % FY_BLKW_SECTOR ||
        !fy_range_ok(r->offset, r->bytes, disk_bytes))
        return fy_fail(e, FY_ECORRUPT, "a disk request for %llu bytes at %llu, of %llu",
                       (unsigned long long)r->bytes, (unsigned long long)r->offset,
                       (unsigned long long)disk_bytes);
    uint64_t sum = 0;
    for (unsigned i = 0; i < r->segs; i++)
        if (!in_an_area(&r->seg[i], areas, area_count) || r->seg[i].len > r->bytes - sum)
            return fy_fail(e, FY_ECORRUPT, "a disk request's segment of %llu bytes at %llu",
                           (unsigned long long)r->seg[i].len, (unsigned long long)r->seg[i].at);
        else
            sum += r->seg[i].len;
    if (r->segs && sum != r->bytes)
        return fy_fail(e, FY_ECORRUPT, "a disk request for %llu bytes has segments of %llu",
                       (unsigned long long)r->bytes, (unsigned long long)sum);
    return 0;
}

size_t fy_blkw_put_reply(const struct fy_blkw_reply *r, uint8_t *buf)
{
    size_t n = strnlen(r->text, FY_BLKW_TEXT_MAX);
    fy_put32(buf, r->id);
    fy_put16(buf + 4, (uint16_t)r->kind);
    fy_put16(buf + 6, 0);
    fy_put32(buf + 8, (uint32_t)r->error);
    fy_put32(buf + 12, (uint32_t)r->code);
    fy_put64(buf + 16, r->bytes);
    memcpy(buf + FY_BLKW_REPLY, r->text, n);
    return FY_BLKW_REPLY + n;
}

int fy_blkw_get_reply(const uint8_t *buf, size_t len, struct fy_blkw_reply *r, struct fy_err *e)
{
    if (len < FY_BLKW_REPLY || len > FY_BLKW_REPLY_MAX)
        return fy_fail(e, FY_ECORRUPT, "a disk's answer of %zu bytes", len);
    uint32_t kind = fy_get16(buf + 4), error = fy_get32(buf + 8), code = fy_get32(buf + 12);
    r->id = fy_get32(buf);
    if (kind < FY_BLKW_DONE || kind > FY_BLKW_DOWN || fy_get16(buf + 6) || r->id >= FY_BLKW_IDS ||
        error > ERRNO_MAX || code > FY_ECRASHED || (kind != FY_BLKW_DONE && r->id))
        return fy_fail(e, FY_ECORRUPT, "a disk's answer %u to %u, error %u, code %u", kind, r->id, error,
                       code);
    r->kind = (enum fy_blkw_kind)kind;
    r->error = (int)error;
    r->code = (int)code;
    r->bytes = fy_get64(buf + 16);
    size_t n = len - FY_BLKW_REPLY;
    for (size_t i = 0; i < n; i++) {
        char c = (char)buf[FY_BLKW_REPLY + i];
        r->text[i] = (c >= ' ' && c != 0x7f) || c & 0x80 ? c : ' '; /* it goes into logs */
    }
    r->text[n] = 0;
    return 0;
}
