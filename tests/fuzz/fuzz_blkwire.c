// SPDX-License-Identifier: Apache-2.0
/* Messages between ferry-hv and ferry-blk, both ways. What is taken is what would be written, and lies inside
 * disk and memory. */
#include <string.h>

#include "hv/backend/blk_wire.h"
#include "tests/fuzz/fuzz.h"

#define DISK (1ull << 30)

static const struct fy_blkw_seg areas[] = {{0, 1ull << 24}, {1ull << 25, 1ull << 20}};

static void inside(const struct fy_blkw_request *r)
{
    uint64_t sum = 0;
    MUST(r->offset % FY_BLKW_SECTOR == 0 && r->bytes % FY_BLKW_SECTOR == 0 && r->bytes <= DISK &&
         r->offset <= DISK - r->bytes);
    for (unsigned i = 0; i < r->segs; i++) {
        const struct fy_blkw_seg *s = &r->seg[i];
        const struct fy_blkw_seg *a = s->at >= areas[1].at ? &areas[1] : &areas[0];
        MUST(s->len && s->len <= a->len && s->at >= a->at && s->at - a->at <= a->len - s->len);
        sum += s->len;
    }
    MUST(!r->segs || sum == r->bytes);
}

static void request(const uint8_t *data, size_t size)
{
    static struct fy_blkw_request r;
    uint8_t again[FY_BLKW_REQUEST_MAX];
    struct fy_err e = {0};
    if (fy_blkw_get_request(data, size, &r, &e) < 0) {
        MUST(e.code == FY_ECORRUPT && e.text[0]);
        return;
    }
    MUST(fy_blkw_put_request(&r, again) == size && !memcmp(again, data, size));
    if (r.op <= FY_BLKW_ZEROES && fy_blkw_check(&r, DISK, areas, 2, &e) == 0)
        inside(&r);
}

static void reply(const uint8_t *data, size_t size)
{
    struct fy_blkw_reply r;
    uint8_t again[FY_BLKW_REPLY_MAX];
    struct fy_err e = {0};
    if (fy_blkw_get_reply(data, size, &r, &e) < 0) {
        MUST(e.code == FY_ECORRUPT && e.text[0]);
        return;
    }
    MUST(r.id < FY_BLKW_IDS && r.code <= FY_ECRASHED && strlen(r.text) <= FY_BLKW_TEXT_MAX);
    MUST(fy_blkw_put_reply(&r, again) == FY_BLKW_REPLY + strlen(r.text) &&
         !memcmp(again, data, FY_BLKW_REPLY));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (!size)
        return 0;
    if (data[0] & 1)
        request(data + 1, size - 1);
    else
        reply(data + 1, size - 1);
    return 0;
}
