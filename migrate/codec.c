// SPDX-License-Identifier: Apache-2.0
#include "migrate/codec.h"

#include <string.h>

/* Weight of a new sample in the moving averages: about the last sixteen batches count. */
#define WEIGHT 0.0625
/* One batch in this many tries a codec that is not the favourite. */
#define EXPLORE 64
/* After this many batches that did not shrink only one in HOPELESS_TRY is tried. */
#define HOPELESS_AFTER 4
#define HOPELESS_TRY 16
/* Sending that takes this many times its CPU time waits for the link, not for a turn on the CPU. */
#define LINK_BOUND 6

int fy_codec_parse(const char *name, bool has_level, int level, struct fy_codec_choice *out, struct fy_err *e)
{
    struct fy_codec_choice c = {.zstd_level = has_level ? level : 1};
    if (!name || !*name || !strcmp(name, "auto"))
        c.automatic = true;
    else if (!strcmp(name, "none"))
        c.fixed = FY_CODEC_NONE;
    else if (!strcmp(name, "lz4"))
        c.fixed = FY_CODEC_LZ4;
    else if (!strcmp(name, "zstd"))
        c.fixed = FY_CODEC_ZSTD;
    else
        return fy_fail(e, FY_EUSAGE, "unknown codec \"%s\" (auto, none, lz4, zstd or zstd:LEVEL)", name);
    if (has_level && (c.automatic || c.fixed != FY_CODEC_ZSTD || level < -7 || level > 19))
        return fy_fail(e, FY_EUSAGE, "a level goes with zstd only and lies in -7..19");
    if (c.automatic)
        c.zstd_level = -1; /* the fast end: 10 times on text at 0.7 GB/s */
    *out = c;
    return 0;
}

const char *fy_codec_name(enum fy_codec codec)
{
    switch (codec) {
    case FY_CODEC_LZ4:
        return "lz4";
    case FY_CODEC_ZSTD:
        return "zstd";
    default:
        return "none";
    }
}

void fy_codec_stats_init(struct fy_codec_stats *s)
{
    /* Starting points, soon replaced: measured on text-like pages on the reference machine. */
    *s = (struct fy_codec_stats){
        .pack_ns = {0.0, 0.67, 1.4}, .ratio = {1.0, 0.2, 0.12}, .wire_ns = 1.5, .hopeless = 0};
}

/* Unpacking is counted as a third of packing; wire_ns has both ends' work in it. */
static double cost(const struct fy_codec_stats *s, enum fy_codec c)
{
    return s->pack_ns[c] * 4 / 3 + s->ratio[c] * s->wire_ns;
}

enum fy_codec fy_codec_choose(const struct fy_codec_choice *choice, unsigned allowed,
                              const struct fy_codec_stats *s)
{
    if (!choice->automatic) {
        if (s->hopeless >= HOPELESS_AFTER && s->batches % HOPELESS_TRY)
            return FY_CODEC_NONE;
        return allowed & FY_CODEC_BIT(choice->fixed) ? choice->fixed : FY_CODEC_NONE;
    }
    bool lz4 = allowed & FY_CODEC_BIT(FY_CODEC_LZ4);
    bool zstd = allowed & FY_CODEC_BIT(FY_CODEC_ZSTD);
    if (s->hopeless >= HOPELESS_AFTER)
        return s->batches % HOPELESS_TRY == 0 && lz4 ? FY_CODEC_LZ4 : FY_CODEC_NONE;
    enum fy_codec best = FY_CODEC_NONE;
    if (lz4 && cost(s, FY_CODEC_LZ4) < cost(s, best))
        best = FY_CODEC_LZ4;
    if (zstd && cost(s, FY_CODEC_ZSTD) < cost(s, best))
        best = FY_CODEC_ZSTD;
    if (s->batches % EXPLORE == EXPLORE - 1) {
        /* The runner-up is worth a look only where it could win: packing costs are stable, ratios are not. */
        enum fy_codec other = best == FY_CODEC_LZ4 ? FY_CODEC_ZSTD : FY_CODEC_LZ4; /* raw: lz4 is nearest */
        bool known = other == FY_CODEC_LZ4 ? lz4 : zstd;
        if (known && s->pack_ns[other] + 0.5 * s->ratio[other] * s->wire_ns < cost(s, best))
            return other;
    }
    return best;
}

static void blend(double *average, double sample)
{
    *average += WEIGHT * (sample - *average);
}

void fy_codec_account(struct fy_codec_stats *s, enum fy_codec tried, size_t raw_len, size_t packed_len,
                      uint64_t pack_ns)
{
    s->batches++;
    if (tried == FY_CODEC_NONE || !raw_len)
        return;
    if (!packed_len) {
        /* Not averaged in: the averages speak of what does shrink, so that it is recognised when it comes
         * back. */
        s->hopeless++;
        return;
    }
    s->hopeless = 0;
    blend(&s->pack_ns[tried], (double)pack_ns / (double)raw_len);
    blend(&s->ratio[tried], (double)packed_len / (double)raw_len);
}

void fy_codec_account_wire(struct fy_codec_stats *s, size_t wire_len, uint64_t cpu_ns, uint64_t wall_ns)
{
    if (!wire_len)
        return;
    /* Blocked for much longer than the work takes: the link is the limit. Else work is, and the receiver has
     * as much of it. */
    uint64_t ns = wall_ns > LINK_BOUND * cpu_ns ? wall_ns : 2 * cpu_ns;
    blend(&s->wire_ns, (double)ns / (double)wire_len);
}
