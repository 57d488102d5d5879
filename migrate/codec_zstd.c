// SPDX-License-Identifier: Apache-2.0
#include <zstd.h>

#include "migrate/codec.h"
#include "migrate/packer.h"

void fy_zstd_release(struct fy_packer *p)
{
    ZSTD_freeCCtx(p->cctx);
    ZSTD_freeDCtx(p->dctx);
    p->cctx = NULL;
    p->dctx = NULL;
}

size_t fy_zstd_pack(struct fy_packer *p, int level, const uint8_t *src, size_t len, uint8_t *dst, size_t room)
{
    if (!p->cctx && !(p->cctx = ZSTD_createCCtx()))
        return 0;
    size_t n = ZSTD_compressCCtx(p->cctx, dst, room, src, len, level);
    return ZSTD_isError(n) ? 0 : n;
}

int fy_zstd_unpack(struct fy_packer *p, const uint8_t *src, size_t len, uint8_t *dst, size_t raw_len)
{
    if (!p->dctx && !(p->dctx = ZSTD_createDCtx()))
        return -1;
    size_t n = ZSTD_decompressDCtx(p->dctx, dst, raw_len, src, len);
    return !ZSTD_isError(n) && n == raw_len ? 0 : -1;
}
