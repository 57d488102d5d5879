// SPDX-License-Identifier: Apache-2.0
/* Inside of the codecs: the state that codec_lz4.c and codec_zstd.c keep for a thread. */
#ifndef FERRY_MIGRATE_PACKER_H
#define FERRY_MIGRATE_PACKER_H

struct fy_packer {
    void *lz4;  /* LZ4_stream_t memory */
    void *cctx; /* ZSTD_CCtx, made at first use */
    void *dctx; /* ZSTD_DCtx, made at first use */
};

void fy_lz4_release(struct fy_packer *p);
void fy_zstd_release(struct fy_packer *p);

#endif
