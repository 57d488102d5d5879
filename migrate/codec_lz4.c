// SPDX-License-Identifier: Apache-2.0
#include <lz4.h>
#include <stdlib.h>

#include "hv/base/checked.h"
#include "migrate/codec.h"
#include "migrate/packer.h"

#define BACKOFF_MAX 15u

struct fy_packer *fy_packer_new(struct fy_err *e)
{
    struct fy_packer *p = calloc(1, sizeof *p);
    if (p)
        p->lz4 = malloc((size_t)LZ4_sizeofState());
    if (p && p->lz4)
        return p;
    free(p);
    fy_fail(e, FY_ERESOURCE, "no memory for compression");
    return NULL;
}

void fy_packer_free(struct fy_packer *p)
{
    if (!p)
        return;
    fy_lz4_release(p);
    fy_zstd_release(p);
    free(p);
}

void fy_lz4_release(struct fy_packer *p)
{
    free(p->lz4);
    p->lz4 = NULL;
}

/* Memory whose words repeat goes through Ferry's own encoder, which is faster there and packs closer; all
 * else through the library's. One batch in BACKOFF_MAX + 1 at least finds out. */
static size_t pack_words(struct fy_packer *p, const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    if (p->plain) {
        p->plain--;
        return 0;
    }
    size_t n = fy_wordpack(&p->words, src, len, dst, room);
    p->backoff = n ? 0 : FY_MIN(2 * p->backoff + 1, BACKOFF_MAX);
    p->plain = p->backoff;
    return n;
}

size_t fy_lz4_pack(struct fy_packer *p, const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    size_t words = pack_words(p, src, len, dst, room);
    if (words)
        return words;
    int n = LZ4_compress_fast_extState(p->lz4, (const char *)src, (char *)dst, (int)len, (int)room, 1);
    return n > 0 ? (size_t)n : 0;
}

int fy_lz4_unpack(const uint8_t *src, size_t len, uint8_t *dst, size_t raw_len)
{
    if (len > FY_RECORD_BODY_MAX || raw_len > FY_RECORD_BODY_MAX)
        return -1;
    int n = LZ4_decompress_safe((const char *)src, (char *)dst, (int)len, (int)raw_len);
    return n >= 0 && (size_t)n == raw_len ? 0 : -1;
}
