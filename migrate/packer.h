// SPDX-License-Identifier: Apache-2.0
/* Inside of the codecs: the state that codec_lz4.c and codec_zstd.c keep for a thread. */
#ifndef FERRY_MIGRATE_PACKER_H
#define FERRY_MIGRATE_PACKER_H

#include "migrate/wordpack.h"

struct fy_packer {
    void *lz4; /* LZ4_stream_t memory */
    struct fy_wordpack words;
    unsigned plain;   /* batches that go to the library before words are tried again */
    unsigned backoff; /* what `plain` was set to last */
    void *cctx;       /* ZSTD_CCtx, made at first use */
    void *dctx;       /* ZSTD_DCtx, made at first use */
};

void fy_lz4_release(struct fy_packer *p);
void fy_zstd_release(struct fy_packer *p);

#endif
