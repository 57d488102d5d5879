// SPDX-License-Identifier: Apache-2.0
/* Page codecs, and the choice among them batch by batch. A codec object belongs to one thread. */
#ifndef FERRY_MIGRATE_CODEC_H
#define FERRY_MIGRATE_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "hv/base/err.h"
#include "proto/wire.h"

/* Pages packed together: 512 KiB leaves half of a second-level cache to the rest. */
#define FY_BATCH_PAGES 128
#define FY_BATCH_BYTES ((size_t)FY_BATCH_PAGES * 4096)

/* Bits of StreamHello.codecs. */
#define FY_CODEC_BIT(codec) (1u << (codec))
#define FY_CODECS_ALL (FY_CODEC_BIT(FY_CODEC_NONE) | FY_CODEC_BIT(FY_CODEC_LZ4) | FY_CODEC_BIT(FY_CODEC_ZSTD))

/* "auto", "none", "lz4", "zstd". */
struct fy_codec_choice {
    bool automatic;
    enum fy_codec fixed;
    int zstd_level;
};
int fy_codec_parse(const char *name, bool has_level, int level, struct fy_codec_choice *out,
                   struct fy_err *e);
const char *fy_codec_name(enum fy_codec codec);

/* --- the codecs themselves (codec_lz4.c, codec_zstd.c) --- */

struct fy_packer; /* compression state of one thread */
struct fy_packer *fy_packer_new(struct fy_err *e);
void fy_packer_free(struct fy_packer *p);

/* Pack len bytes (at most FY_BATCH_BYTES) from src into dst of `room` bytes. Returns the packed length, or 0
 * when the result does not fit in room: the batch goes raw. src must not change meanwhile. */
size_t fy_lz4_pack(struct fy_packer *p, const uint8_t *src, size_t len, uint8_t *dst, size_t room);
size_t fy_zstd_pack(struct fy_packer *p, int level, const uint8_t *src, size_t len, uint8_t *dst,
                    size_t room);

/* Unpack exactly raw_len bytes; 0 or -1 when src is not that. Hostile input cannot write elsewhere. */
int fy_lz4_unpack(const uint8_t *src, size_t len, uint8_t *dst, size_t raw_len);
int fy_zstd_unpack(struct fy_packer *p, const uint8_t *src, size_t len, uint8_t *dst, size_t raw_len);

/* --- the choice (pure: times are given, none is read) --- */

/* What a thread has seen of each codec, in ns a raw byte and packed bytes a raw byte, and of its link in ns a
 * wire byte. All are moving averages. */
struct fy_codec_stats {
    double pack_ns[3];
    double ratio[3];
    double wire_ns;
    unsigned batches;
    unsigned hopeless; /* batches in a row that did not shrink */
};

void fy_codec_stats_init(struct fy_codec_stats *s);

/* The codec for the next batch under `allowed` codecs: the least expected time of packing plus sending, with
 * another one tried now and then so that the averages stay true. */
enum fy_codec fy_codec_choose(const struct fy_codec_choice *choice, unsigned allowed,
                              const struct fy_codec_stats *s);

/* Account for a batch: what was tried, how long it took, how long sending blocked. packed_len == 0: it did
 * not shrink. */
void fy_codec_account(struct fy_codec_stats *s, enum fy_codec tried, size_t raw_len, size_t packed_len,
                      uint64_t pack_ns);
/* wire_len bytes were sent: the thread's CPU time, and the time on the clock. */
void fy_codec_account_wire(struct fy_codec_stats *s, size_t wire_len, uint64_t cpu_ns, uint64_t wall_ns);

#endif
